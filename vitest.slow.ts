/** Tests beside the code that start whole processes or race threads: they belong to the full run, not to the quick one. */
export const slowTests = [
  'packages/*/src/**/*.process.test.ts',
  'packages/program-controller/src/{controller,patience,survivors}.test.ts',
  'packages/program-ha/src/ha.test.ts',
  'packages/program-{cli,vhostd}/src/programs.test.ts',
  'packages/program-vhostd/src/served-function-life.test.ts',
  'packages/testing/src/{split,packed}-ring.race.test.ts',
];
