/** Everything that can be fuzzed, by name. A target keeps memory, so it is made when it is asked for. */
import { controlTarget } from './control-target.js';
import type { FuzzTarget } from './fuzzer.js';
import { headerTarget } from './header-target.js';
import { ringTarget } from './ring-target.js';

export const FUZZ_TARGETS: Readonly<Record<string, () => FuzzTarget>> = {
  split: () => ringTarget('split'),
  packed: () => ringTarget('packed'),
  control: controlTarget,
  header: headerTarget,
};
