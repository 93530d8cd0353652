/**
 * @virtnet/engine-control: what the virtnet command line means. Pure: facts and requests in, plans and answers out.
 *
 * @example
 *   const plan = planHotplug(request, store.current, devices, { uplinkMtu: 1500, supportedFeatures, defaultFeatures });
 *   if (!isFailure(plan)) makeDevice(plan);
 *   reply(hotplugAnswer(plan));
 */
export * from './answers.js';
export * from './conf-keys.js';
export * from './device-plan.js';
export * from './device-selector.js';
export * from './errors.js';
export * from './facts.js';
export * from './feature-names.js';
export * from './firmware-config.js';
export * from './firmware-entries.js';
export * from './firmware-text.js';
export * from './format.js';
export * from './host-model.js';
export * from './hotplug.js';
export * from './identity.js';
export * from './limits.js';
export * from './lspci.js';
export * from './lspci-verbose.js';
export * from './modify.js';
export * from './modify-request.js';
export * from './queue-moderation.js';
export * from './recovered-plan.js';
export * from './recovery-document.js';
export * from './recovery-file.js';
export * from './recovery-matrix.js';
export * from './requests.js';
export * from './static-functions.js';
export * from './stats.js';
export * from './update-answers.js';
export * from './uplinks.js';
export * from './vf-pool.js';
