import { describe, expect, it } from 'vitest';
import type { DevicePlan } from './device-plan.js';
import { isFailure } from './errors.js';
import { hotplugValues } from './firmware-entries.js';
import { planHotplug } from './hotplug.js';
import {
  DEVICES_VERSION,
  isUnsaved,
  type RecoveryDocument,
  readDocument,
  writeDocument,
} from './recovery-document.js';
import { type Recovery, readRecovery, writeRecovery } from './recovery-file.js';

const firmware = hotplugValues();
const site = { uplinkMtu: null, supportedFeatures: 0x1_0000_0020n, defaultFeatures: 0x1_0000_0020n };

function planned(existing: readonly DevicePlan[]): DevicePlan {
  const plan = planHotplug(
    {
      ...{ ibDevice: 'mlx5_0', mac: '02:00:00:00:00:07', mtu: 1500, queues: 3, queuePairs: null },
      ...{ queueSize: 256, sfNum: null, features: null, legacy: false },
    },
    firmware,
    existing,
    site,
  );
  if (isFailure(plan)) throw new Error(plan.errstr);
  return plan;
}
const first = planned([]);
const second = planned([first]);
const document: RecoveryDocument = {
  firmware: JSON.stringify(firmware),
  plans: new Map([first, second].map((plan) => [plan.vuid, plan])),
  requests: new Map([[second.vuid, 'request-1']]),
};

/** What is written of `document` with a change. */
function written(change: Readonly<Record<string, unknown>>): string {
  return JSON.stringify({ ...JSON.parse(writeDocument(document)), ...change });
}

describe('the document beside the recovery files', () => {
  it('is read as it was written', () => {
    expect(readDocument(writeDocument(document))).toEqual(document);
  });

  it('of a version that did not save who asked for a function > nobody did', () => {
    expect(readDocument(written({ requests: undefined }))).toEqual({ ...document, requests: new Map() });
  });

  it.each([
    ['a request that is no text', { requests: { a: 5, b: null, [second.vuid]: 'request-1' } }],
    [
      'a request of none or too many letters',
      { requests: { a: '', b: 'x'.repeat(65), [second.vuid]: 'request-1' } },
    ],
    ['a plan that no function can have', { plans: [first, { ...first, mtu: 5 }, null, second] }],
  ])('%s is left out', (_, change) => {
    expect(readDocument(written(change))).toEqual(document);
  });

  it.each([
    ['of another version', { version: DEVICES_VERSION + 1 }],
    ['without firmware', { firmware: undefined }],
    ['with firmware that nobody can read', { firmware: 'x' }],
    ['without plans', { plans: 5 }],
  ])('%s is refused', (_, change) => {
    expect(readDocument(written(change))).toBe(`not a document of version ${DEVICES_VERSION}`);
  });

  it.each(['', '{"version":1', '"', 'null', '[]'])('%j is refused, with a sentence', (text) => {
    expect(readDocument(text)).toEqual(expect.any(String));
  });
});

describe('whether a function is saved', () => {
  const { plans, requests } = document;
  const recoveries = new Map(
    [first, second].map((plan) => [plan.vuid, readRecovery(writeRecovery(plan), plan.vuid) as Recovery]),
  );
  const remembered = { recoveries, plans, requests };

  it('it is, as it is and by whom it was asked for', () => {
    expect(isUnsaved(first, undefined, remembered)).toBe(false);
    expect(isUnsaved(second, 'request-1', remembered)).toBe(false);
  });

  it.each<[string, boolean]>([
    ['without its file', isUnsaved(first, undefined, { ...remembered, recoveries: new Map() })],
    [
      'with the file of what it was',
      isUnsaved({ ...first, mac: '02:00:00:00:00:08' }, undefined, remembered),
    ],
    ['without its plan', isUnsaved(first, undefined, { ...remembered, plans: new Map() })],
    ['with another plan', isUnsaved({ ...first, mtu: 1400 }, undefined, remembered)],
    ['with a request of another function', isUnsaved(second, 'request-2', remembered)],
    ['without the request that asked for it', isUnsaved(first, 'request-2', remembered)],
    ['with the request of a former function', isUnsaved(second, undefined, remembered)],
  ])('%s it is not', (_, unsaved) => {
    expect(unsaved).toBe(true);
  });
});
