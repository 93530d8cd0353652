import { lspciLines } from '@virtnet/engine-control';
import { describe, expect, it } from 'vitest';
import { FunctionFixture } from './function-fixture.js';

/** A function as `lspci -vvv` shows it. */
function shown(options: ConstructorParameters<typeof FunctionFixture>[0], driver = ''): string[] {
  const { fn } = new FunctionFixture(options);
  const config = Uint8Array.from(fn.readConfig(0, 4096));
  const row = { bdf: '14:00.2', classCode: 0x20000, vendorId: 0x1af4, deviceId: 0x1041, revisionId: 1 };
  return lspciLines([{ ...row, driver, config }], { numeric: false, filter: null, verbose: true });
}

describe('lspci -vvv', () => {
  it('shows the capabilities the function has, each where it is', () => {
    const lines = shown({ msixVectors: 12 });
    expect(lines[0]).toBe('14:00.2 Ethernet controller: Red Hat, Inc. Virtio network device (rev 01)');
    expect(lines.at(-1)).toBe('');
    const capabilities = lines.flatMap(
      (line) => /^\tCapabilities: \[(\w+)\] (.*)$/.exec(line)?.slice(1) ?? [],
    );
    expect(capabilities.filter((_, i) => i % 2 === 1)).toEqual([
      'Power Management version 3',
      'Express (v2) Endpoint, MSI 00',
      'MSI-X: Enable- Count=12 Masked-',
      'Vendor Specific Information: VirtIO: CommonCfg',
      'Vendor Specific Information: VirtIO: Notify',
      'Vendor Specific Information: VirtIO: ISR',
      'Vendor Specific Information: VirtIO: DeviceCfg',
      'Vendor Specific Information: VirtIO: <unknown>',
    ]);
    expect(lines.join('\n')).not.toContain('Kernel driver');
  });

  it('names the driver', () => {
    expect(shown({}, 'vfio-pci')).toContain('\tKernel driver in use: vfio-pci');
  });

  it('a PF shows its SR-IOV capability with the VFs it has', () => {
    const lines = shown({ function: { sriov: { kind: 'pf', totalVfs: 126, firstVfOffset: 5 } } });
    expect(lines).toContain('\tCapabilities: [108 v1] Single Root I/O Virtualization (SR-IOV)');
    expect(lines.join('\n')).toContain(
      'Initial VFs: 126, Total VFs: 126, Number of VFs: 0, Function Dependency Link: 00',
    );
    expect(lines.join('\n')).toContain('VF offset: 5, stride: 1, Device ID: 1041');
  });

  it('a VF has no interrupt pin', () => {
    const pin = /Interrupt: pin A/;
    expect(shown({}).join('\n')).toMatch(pin);
    expect(shown({ function: { sriov: { kind: 'vf' } } }).join('\n')).not.toMatch(pin);
  });

  it('a configuration space that is too short shows nothing of it', () => {
    const row = { bdf: '14:00.2', classCode: 0x20000, vendorId: 0x1af4, deviceId: 0x1041, revisionId: 1 };
    const options = { numeric: false, filter: null, verbose: true };
    expect(lspciLines([{ ...row, config: new Uint8Array(10) }], options)).toHaveLength(2);
  });
});
