/** Writes the completion files: `scripts/node packages/program-cli/dist/completion-write.js`. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { bashCompletion, zshCompletion } from './completion.js';
import { buildProgram } from './definition.js';

const directory = new URL('../completion/', import.meta.url);
const program = buildProgram(() => undefined);
mkdirSync(directory, { recursive: true });
writeFileSync(new URL('virtnet.bash', directory), bashCompletion(program));
writeFileSync(new URL('_virtnet', directory), zshCompletion(program));
