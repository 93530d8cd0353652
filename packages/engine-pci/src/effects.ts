/** What an access to a function asks its program to do, before the access is answered. */

/** Why a queue could not be enabled. */
export type QueueRefusal = 'features-not-agreed' | 'address-missing' | 'size-invalid' | 'resetting';

export type Effect =
  /** The driver reset the device: stop every queue. Registers read as after reset already. */
  | { readonly kind: 'reset' }
  /** Function level reset: as `reset`, and configuration space and MSI-X are at their reset values as well. */
  | { readonly kind: 'flr' }
  /** The driver set status bits; `value` is the whole status. */
  | { readonly kind: 'status'; readonly value: number }
  /** FEATURES_OK was accepted with these features. */
  | { readonly kind: 'features'; readonly features: bigint }
  /** FEATURES_OK was refused; `problems` is for the log. */
  | { readonly kind: 'features-refused'; readonly features: bigint; readonly problems: readonly string[] }
  /** The driver is ready: start the enabled queues. */
  | { readonly kind: 'driver-ok' }
  /** Start this queue if the driver is ready; call `disableQueue` when its rings cannot be used. */
  | { readonly kind: 'queue-enable'; readonly queue: number }
  /** The driver asked to enable a queue and was refused: queue_enable reads 0. */
  | { readonly kind: 'queue-refused'; readonly queue: number; readonly reason: QueueRefusal }
  /** Stop this queue, then call `completeQueueReset`. */
  | { readonly kind: 'queue-reset'; readonly queue: number }
  /** The driver notified this queue, which is enabled in a device that is ready. */
  | { readonly kind: 'queue-notify'; readonly queue: number }
  /** Where interrupts go may have changed: ask `routeOf` again. */
  | { readonly kind: 'vectors-changed' }
  /** Send this MSI-X vector: it was pending and has been unmasked. */
  | { readonly kind: 'fire'; readonly vector: number }
  /** Assert INTx: it was pending and has been enabled. */
  | { readonly kind: 'fire-intx' }
  /** Bus mastering was switched. Reported, not enforced here. */
  | { readonly kind: 'bus-master'; readonly enabled: boolean };

/** Where an interrupt goes. */
export type Interrupt =
  /** Send this MSI-X vector. */
  | { readonly kind: 'msix'; readonly vector: number }
  /** Assert INTx; the ISR status is set. */
  | { readonly kind: 'intx' }
  /** Nothing to send now; if the vector was masked its pending bit is set. */
  | { readonly kind: 'none' };

/** Where interrupts of a source would go now, without any side effect. */
export type Route =
  | { readonly kind: 'msix'; readonly vector: number }
  /** The vector is masked: the pending bit has to be set instead. */
  | { readonly kind: 'masked'; readonly vector: number }
  | { readonly kind: 'intx' }
  | { readonly kind: 'none' };

/** What raises an interrupt: a queue by index, or the device configuration. */
export type InterruptSource = number | 'config';
