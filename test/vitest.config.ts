import { defineConfig } from 'vitest/config';

// Whole-system tests: real processes, namespaces and guests on few cores, hence strictly one after the other.
export default defineConfig({
  test: {
    root: import.meta.dirname,
    setupFiles: ['../vitest.seed.ts'],
    include: ['*.test.ts'],
    exclude: ['structure.test.ts', 'golden.test.ts'],
    fileParallelism: false,
    sequence: { concurrent: false },
    pool: 'forks',
    testTimeout: 300_000,
    hookTimeout: 300_000,
  },
});
