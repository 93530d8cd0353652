import { defineConfig } from 'vitest/config';
import { processTests } from './vitest.slow.ts';

// One after the other: each of these starts processes of its own and waits for them.
export default defineConfig({
  test: {
    setupFiles: ['./vitest.seed.ts'],
    include: processTests,
    exclude: ['**/node_modules/**', '**/dist/**'],
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
  },
});
