/**
 * @virtnet/engine-eswitch: a learning switch between functions, which moves frames from ring to ring. No I/O, no clock.
 *
 * @example
 *   const domain = new SwitchDomain({ seed, settled: (queue) => interruptTheDriverOf(queue) });
 *   domain.attach(0, 0, new SwitchedReceiveQueue(options));
 *   const transmit = new TransmitQueue({ ...others, port: new SwitchPort(domain, 1, 0, others.block) });
 *   domain.begin();
 *   transmit.poll(64);
 *   domain.flush();
 */

export * from './diagnostic-ports.js';
export * from './eswitch.js';
export * from './flow-table.js';
export * from './limits.js';
export * from './station-table.js';
export * from './switch-domain.js';
export * from './switch-ports.js';
export * from './switched-frame.js';
export * from './switched-receive-queue.js';
