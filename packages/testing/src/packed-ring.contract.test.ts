import { describe, it } from 'vitest';
import { packedFixture } from './packed-ring-fixture.js';
import { ringContract } from './ring-contract.js';

ringContract({ describe, it }, 'packed', packedFixture);
// D1 PR-5: sizes that are no power of two; a mask anywhere would show in the laps of the suite.
for (const spare of [1, 3, 84]) {
  ringContract({ describe, it }, `packed, ${spare} entries more than a power of two`, (options) =>
    packedFixture({ ...options, queueSize: options.queueSize + spare }),
  );
}
