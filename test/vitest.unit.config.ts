import { defineConfig } from 'vitest/config';

// What needs neither root nor peers: the structure of the repository, and the arithmetic of the test library.
export default defineConfig({
  test: {
    root: import.meta.dirname,
    include: ['structure.test.ts', 'lib/*.test.ts'],
    pool: 'forks',
  },
});
