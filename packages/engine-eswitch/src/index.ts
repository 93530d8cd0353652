/**
 * @virtnet/engine-eswitch: a learning switch between representors. Decides; moves no frame and knows no clock.
 *
 * @example
 *   const eswitch = new Eswitch({ seed });
 *   eswitch.add(0);
 *   eswitch.add(1);
 *   const verdict = eswitch.decide(0, head); // a port, or a Verdict
 */
export * from './eswitch.js';
export * from './limits.js';
export * from './station-table.js';
