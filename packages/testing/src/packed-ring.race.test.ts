/** A packed ring with its driver on another core, honest and hostile. */
import { describe, it } from 'vitest';
import { honestRaces, hostileRaces } from './ring-races.js';

describe('packed ring, driver on another thread', () => {
  honestRaces({ describe, it }, 'packed', 'elsewhere');
});
describe('packed ring in the window, driver on another thread', () => {
  honestRaces({ describe, it }, 'packed', 'window');
});
describe('packed ring, hostile driver on another thread', () => {
  hostileRaces({ describe, it }, 'packed');
});
