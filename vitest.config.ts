import { defineConfig } from 'vitest/config';
import { ownProcessTests, processTests, slowTests } from './vitest.slow.ts';

const elsewhere = ['**/node_modules/**', '**/dist/**', ...slowTests, ...processTests];

export default defineConfig({
  test: {
    setupFiles: ['./vitest.seed.ts'],
    testTimeout: 60_000, // for a busy machine
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 3, // for two processors: a third of the time these wait for a timer or another process
    projects: [
      {
        // Files share processes, and load each module once: that is half of the time of most of them.
        extends: true,
        test: {
          name: 'unit',
          include: ['packages/*/src/**/*.test.ts'],
          exclude: [...elsewhere, ...ownProcessTests],
          isolate: false,
        },
      },
      { extends: true, test: { name: 'unit, own process', include: ownProcessTests, exclude: elsewhere } },
      './test/vitest.unit.config.ts',
    ],
  },
});
