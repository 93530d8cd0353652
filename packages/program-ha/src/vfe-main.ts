/** vfe-vhostd-ha: the state keeper of vfe-vhostd. See wiring.ts and vfe-keeper.ts. */
import { serveVfe } from './vfe-keeper.js';
import { parseVfeOptions } from './vfe-options.js';

process.exit(await serveVfe(parseVfeOptions(process.argv)));
