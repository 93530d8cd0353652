/** A split ring with its driver on another core, honest and hostile. */
import { describe, it } from 'vitest';
import { honestRaces, hostileRaces } from './ring-races.js';

describe('split ring, driver on another thread', () => {
  honestRaces({ describe, it }, 'split', 'elsewhere');
});
describe('split ring in the window, driver on another thread', () => {
  honestRaces({ describe, it }, 'split', 'window');
});
describe('split ring, hostile driver on another thread', () => {
  hostileRaces({ describe, it }, 'split');
});
