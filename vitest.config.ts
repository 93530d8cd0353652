import { defineConfig } from 'vitest/config';
import { slowTests } from './vitest.slow.ts';

export default defineConfig({
  test: {
    setupFiles: ['./vitest.seed.ts'],
    include: ['packages/*/src/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**', ...slowTests],
    testTimeout: 20_000,
    pool: 'forks',
    maxWorkers: 3, // for two processors: a third of the time these wait for a timer or another process
  },
});
