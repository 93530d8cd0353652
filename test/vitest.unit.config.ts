import { defineConfig } from 'vitest/config';

// What needs neither root nor peers: structure of the repository, what versions leave to one another, and the
// arithmetic of the test library.
export default defineConfig({
  test: {
    root: import.meta.dirname,
    setupFiles: ['../vitest.seed.ts'],
    include: ['structure.test.ts', 'golden.test.ts', 'error-rows.test.ts', 'lib/*.test.ts'],
    pool: 'forks',
  },
});
