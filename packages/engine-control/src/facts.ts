/**
 * What the answers are made from: plain numbers, masks and truths that the emulator holds or measures. The answers
 * decide on types, order, padding and spelling; a fact never does.
 */

/** Kinds of function, spelled as the command line prints them. */
export const FunctionKind = {
  STATIC_PF: 'static PF',
  HOTPLUG_PF: 'hotplug PF',
  VF: 'VF',
} as const;
export type FunctionKind = (typeof FunctionKind)[keyof typeof FunctionKind];

/**
 * What stands for a function on the host: a TAP; a port of the eswitch; or, for measuring, a loop back into the same
 * queue pair, a sink that swallows frames, a source that makes them up.
 */
export const REPRESENTOR_KINDS = ['tap', 'eswitch', 'loop', 'sink', 'source'] as const;
export type RepresentorKind = (typeof REPRESENTOR_KINDS)[number];

export function isRepresentorKind(value: unknown): value is RepresentorKind {
  return REPRESENTOR_KINDS.some((kind) => kind === value);
}

/** Which function a device is. */
export interface DeviceIdentity {
  readonly kind: FunctionKind;
  /** Number of the PF; of the parent PF when the device is a VF. */
  readonly pfId: number;
  /** Number of the VF within its PF, from 0; null for a PF. */
  readonly vfId: number | null;
  readonly vuid: string;
  /** `bus:device.function` without a domain. */
  readonly bdf: string;
  readonly sfNum: number;
}

/** Subsystem ids of a function's PCI header, 16 bits each. */
export interface PciSubsystem {
  readonly subsystemVendorId: number;
  readonly subsystemId: number;
}

/** Vectors and queue pairs a PF keeps for its VFs. */
export interface VfPool {
  readonly msixFree: number;
  readonly msixMin: number;
  readonly msixMax: number;
  readonly queuePairsMin: number;
  readonly queuePairsMax: number;
  readonly queuePairsFree: number;
}

/** The pool of a PF that can have no VFs. */
export const NO_VF_POOL: VfPool = {
  msixFree: 0,
  msixMin: 0,
  msixMax: 0,
  queuePairsMin: 0,
  queuePairsMax: 0,
  queuePairsFree: 0,
};

/** MSI-X vector number that means none (virtio 1.3, 4.1.4.3). */
export const NO_VECTOR = 0xffff;

export interface DeviceFacts extends DeviceIdentity {
  readonly transitional: boolean;
  readonly pciVhcaId: number;
  readonly pciMaxVfs: number;
  readonly enabledVfs: number;
  /** Null for a VF. */
  readonly vfPool: VfPool | null;
  /** MSI-X vectors the function has. */
  readonly msixVectors: number;
  /** Virtqueues the device has, control queue included. */
  readonly queueCount: number;
  /** Virtqueues the driver has enabled. */
  readonly enabledQueueCount: number;
  readonly queueSizeMax: number;
  /** Vector of configuration changes, or NO_VECTOR. */
  readonly msixConfigVector: number;
  /** Permanent address, colon notation. */
  readonly mac: string;
  readonly linkUp: boolean;
  readonly queuePairsMax: number;
  /** Bytes. */
  readonly mtu: number;
  readonly speedMbps: number;
  readonly rssKeySizeMax: number;
  readonly supportedHashTypes: number;
  /** Address the driver uses, colon notation; null while no driver has taken the device. */
  readonly driverMac: string | null;
  /** Queue pairs the driver uses; 0 while no driver has taken the device. */
  readonly driverQueuePairs: number;
  /** RDMA device and PCI address of the uplink port, with its domain. */
  readonly ibDevice: string;
  readonly ibDevicePciAddress: string;
  readonly representor: string;
  /** Interface index of the representor as the kernel has it. */
  readonly representorIfindex: number;
  readonly sfRdmaDevice: string;
  readonly sfCrossMkey: number;
  readonly sfVhcaId: number;
  readonly aarfs: boolean;
  readonly dim: boolean;

  // Below: shown by query only.
  readonly pciDeviceId: number;
  readonly pciVendorId: number;
  readonly pciClassCode: number;
  readonly pciSubsystemId: number;
  readonly pciSubsystemVendorId: number;
  readonly pciRevisionId: number;
  readonly deviceFeatures: bigint;
  readonly driverFeatures: bigint;
  /** Device status byte (virtio 1.3, 2.1). */
  readonly status: number;
  /** A reset is under way. */
  readonly resetting: boolean;
  /** False after a function-level reset until the driver comes back. */
  readonly enabled: boolean;
  /** All virtqueues, ascending; only the enabled ones are shown. */
  readonly queues: readonly QueueFacts[];
  /** Frames lost for want of a buffer since this was switched on; null while it is off. */
  readonly droppedFrames: number | null;
}

/** One virtqueue. Addresses are the driver's; counters count since the device was made. */
export interface QueueFacts {
  readonly index: number;
  /** Entries, as the driver chose. */
  readonly size: number;
  readonly msixVector: number;
  readonly enabled: boolean;
  readonly notifyOffset: number;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
  readonly receivedDesc: number;
  readonly completedDesc: number;
  readonly badDescErrors: number;
  readonly errorCqes: number;
  readonly exceedMaxChain: number;
  readonly invalidBuffer: number;
  readonly batchNumber: number;
  readonly dmaQUsedNumber: number;
  readonly handlerSchdNumber: number;
  readonly auxHandlerSchdNumber: number;
  readonly maxPostDescNumber: number;
  readonly totalBytes: number;
  readonly rqCqMaxCount: number;
  /** Microseconds. */
  readonly rqCqPeriod: number;
  /** 0 default, 1 upon event, 2 upon completion. */
  readonly rqCqPeriodMode: number;
  /** Counters that only `--dbg_stats` shows, under these names. */
  readonly debug?: Readonly<Record<string, number>>;
}

/** A TAP by which frames of the host come in to the eswitch. */
export interface UplinkFacts {
  /** RDMA device whose functions it is the uplink of. */
  readonly ibDevice: string;
  /** Name of the interface. */
  readonly tap: string;
  /** Counters that only `--dbg_stats` shows, under these names. */
  readonly debug: Readonly<Record<string, number>>;
}

/** What is the same for all devices of a controller. */
export interface ControllerFacts {
  readonly emulationManager: string;
  readonly hotplugDevicesMax: number;
  readonly devicesMax: number;
  readonly virtQueuesMax: number;
  readonly tunnelDescriptorsMax: number;
  readonly supportedFeatures: bigint;
  /** Bit 0 split, bit 1 packed. */
  readonly queueTypes: number;
  /** Bit 0 without MSI-X, bit 2 with MSI-X. */
  readonly eventModes: number;
}

/** Counters of faults, in the order in which they are printed. */
export const CONTROL_PLANE_ERRORS = [
  'sf_rqt_update_err',
  'sf_drop_create_err',
  'sf_tir_create_err',
  'steer_rx_domain_err',
  'steer_rx_table_err',
  'sf_flows_apply_err',
  'aarfs_flow_init_err',
  'vlan_flow_init_err',
  'drop_cnt_config_err',
] as const;
export const DATA_PLANE_ERRORS = [
  'sq_stall',
  'dma_q_stall',
  'spurious_db_invoke',
  'aux_not_invoked',
  'dma_q_errors',
  'host_read_errors',
] as const;
export type ControlPlaneError = (typeof CONTROL_PLANE_ERRORS)[number];
export type DataPlaneError = (typeof DATA_PLANE_ERRORS)[number];

export interface HealthFacts extends Omit<DeviceIdentity, 'bdf' | 'sfNum'> {
  readonly status: number;
  /** The device cannot go on without help. */
  readonly fatal: boolean;
  /** How often the device was recovered after its emulator was lost. */
  readonly recoverCount: number;
  readonly recovery: {
    /** Why its former emulator died; null: it was never taken over. */
    readonly lastCause: string | null;
    /** Milliseconds in which no ring was worked; 0 before the first recovery. */
    readonly lastPauseMs: number;
    readonly maxPauseMs: number;
    /** Why it is not served although its emulator lives; null: it is. */
    readonly error: string | null;
    /** What a probe of its datapath has found. */
    readonly datapath: string;
  };
  readonly controlPlaneErrors: Readonly<Record<ControlPlaneError, number>>;
  readonly dataPlaneErrors: Readonly<Record<DataPlaneError, number>>;
}
