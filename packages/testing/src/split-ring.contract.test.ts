import { describe, it } from 'vitest';
import { ringContract } from './ring-contract.js';
import { splitFixture } from './split-ring-fixture.js';

ringContract({ describe, it }, 'split', splitFixture);
