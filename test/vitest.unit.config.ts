import { defineConfig } from 'vitest/config';

// What needs neither root nor peers: structure of the repository, what versions leave to one another, and the
// arithmetic of the test library. ../vitest.config.ts has it as one of its projects.
export default defineConfig({
  test: {
    name: 'structure',
    root: import.meta.dirname,
    setupFiles: ['../vitest.seed.ts'],
    include: ['structure.test.ts', 'golden.test.ts', 'lib/*.test.ts'],
    pool: 'forks',
    isolate: false,
    testTimeout: 60_000, // as in ../vitest.config.ts
    hookTimeout: 60_000,
    maxWorkers: 3, // as in ../vitest.config.ts
  },
});
