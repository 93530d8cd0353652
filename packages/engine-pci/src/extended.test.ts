import {
  PCI_EXTENDED_AT,
  PciAri,
  PciExtendedCapability,
  PciHeader,
  PciSriov,
  SriovControl,
  viewOf,
} from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import type { SriovRole } from './extended.js';
import { TestDevice } from './test-device.fixture.js';
import { VirtioPciFunction } from './virtio-function.js';

const made = (sriov?: SriovRole) =>
  new VirtioPciFunction({
    device: new TestDevice(),
    classCode: 0x020000,
    msixVectors: 4,
    ...(sriov === undefined ? {} : { sriov }),
  });
const SRIOV_AT = PCI_EXTENDED_AT + PciAri.sizeBytes;
const sriovOf = (fn: VirtioPciFunction) =>
  PciSriov.decode(viewOf(fn.readConfig(SRIOV_AT, PciSriov.sizeBytes)));
const word = (fn: VirtioPciFunction, at: number) => viewOf(fn.readConfig(at, 4)).getUint32(0, true);
const pf: SriovRole = { kind: 'pf', totalVfs: 126, firstVfOffset: 5 };

describe('extended capabilities', () => {
  it('a PF with VFs has ARI and behind it SR-IOV, and nothing more', () => {
    const fn = made(pf);
    expect(word(fn, PCI_EXTENDED_AT)).toBe(PciExtendedCapability.ARI | (1 << 16) | (SRIOV_AT << 20));
    expect(word(fn, SRIOV_AT)).toBe(PciExtendedCapability.SRIOV | (1 << 16));
    expect(sriovOf(fn)).toMatchObject({
      initialVfs: 126,
      totalVfs: 126,
      numVfs: 0,
      firstVfOffset: 5,
      vfStride: 1,
      vfDeviceId: viewOf(fn.readConfig(0, 4)).getUint16(2, true),
      control: SriovControl.ARI,
      vfBar0: 4,
    });
  });

  it('shows the VFs that the host enabled; a reset and a restored state leave them', () => {
    const fn = made(pf);
    fn.setVfs(7);
    fn.reset();
    expect(sriovOf(fn)).toMatchObject({
      numVfs: 7,
      control: SriovControl.ARI | SriovControl.VF_ENABLE | SriovControl.VF_MEMORY,
    });
    expect(made(pf).restore(JSON.parse(JSON.stringify(fn.save())))).toEqual([]);
    fn.setVfs(0);
    expect(sriovOf(fn)).toMatchObject({ numVfs: 0, control: SriovControl.ARI });
  });

  it('a client cannot enable VFs', () => {
    const fn = made(pf);
    const before = fn.readConfig(PCI_EXTENDED_AT, 256);
    fn.writeConfig(PCI_EXTENDED_AT, new Uint8Array(256).fill(0xff));
    expect(fn.readConfig(PCI_EXTENDED_AT, 256)).toEqual(before);
  });

  it('a VF has ARI alone, and no interrupt pin', () => {
    const fn = made({ kind: 'vf' });
    expect(word(fn, PCI_EXTENDED_AT)).toBe(PciExtendedCapability.ARI | (1 << 16));
    expect(fn.readConfig(PciHeader.at.interruptPin, 1)[0]).toBe(0);
  });

  it('others have none', () => {
    const fn = made();
    fn.setVfs(3);
    expect(word(fn, PCI_EXTENDED_AT)).toBe(0);
    expect(fn.readConfig(PciHeader.at.interruptPin, 1)[0]).toBe(1);
  });
});
