/** vfe-vhostd-ha: the state keeper of vfe-vhostd. See wiring.ts and vfe-keeper.ts. */
import { serveVfe } from './vfe-keeper.js';
import { parseVfeOptions } from './vfe-options.js';

// No await at the top: this ends up in a module of the older kind, see scripts/bundle.ts.
void serveVfe(parseVfeOptions(process.argv)).then((code) => process.exit(code));
