/**
 * Preloaded into the programs of a test: they run as the modules that they were put into one file from, so that what a
 * preload changes in a module is what the program does.
 */
import { registerHooks } from 'node:module';

registerHooks({
  resolve: (specifier, context, next) =>
    next(specifier.replace(/(\/packages\/program-[a-z]+\/dist\/[a-z-]+)\.cjs$/, '$1.js'), context),
});
