/** Which tests beside the code are not among the quick ones. */

/** Many cases, every step, or seconds of waiting: stage `slow`. */
export const slowTests = ['packages/*/src/**/*.slow.test.ts'];

/** Services that are started and ended, of processes that mostly wait for one another. */
const serviceTests = [
  'packages/program-controller/src/{controller,patience,survivors}.test.ts',
  'packages/program-ha/src/ha.test.ts',
  'packages/program-{cli,vhostd}/src/programs.test.ts',
  'packages/program-vhostd/src/served-function-life.test.ts',
];

/** Those that start whole processes or race threads: stage `system`. */
export const processTests = [
  'packages/*/src/**/*.process.test.ts',
  'packages/testing/src/{split,packed}-ring.race.test.ts',
  ...serviceTests,
];

/** Quick ones that replace modules, set up or count memory, or limit descriptors: each has its process for itself. */
export const ownProcessTests = [
  'packages/program-emu/src/name-free.test.ts',
  'packages/engine-virtqueue/src/{copy-window,plain-burst}.test.ts',
  'packages/server-vhost-user/src/endpoint.test.ts',
  'packages/host-linux/src/fd.test.ts',
];
