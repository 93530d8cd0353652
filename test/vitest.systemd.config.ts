import { defineConfig } from 'vitest/config';

// Package and service in a booted container: minutes the first time, hence a stage of its own.
export default defineConfig({
  test: {
    root: import.meta.dirname,
    include: ['systemd/*.test.ts'],
    fileParallelism: false,
    sequence: { concurrent: false },
    pool: 'forks',
    testTimeout: 300_000,
    hookTimeout: 300_000,
  },
});
