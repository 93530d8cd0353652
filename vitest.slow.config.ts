import { defineConfig } from 'vitest/config';
import { slowTests } from './vitest.slow.ts';

// One file has its process for itself: some of them set up the memory, or count what the heap has.
export default defineConfig({
  test: {
    setupFiles: ['./vitest.seed.ts'],
    include: slowTests,
    exclude: ['**/node_modules/**', '**/dist/**'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 3, // for two processors: some of them wait for other processes
  },
});
