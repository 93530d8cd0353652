/** Every ring format, driven by DPDK's virtio-user; `scripts/matrix` walks many more combinations. */
import { describe, expect, test } from 'vitest';
import { type Cell, cellName, MatrixStage, PEER_ADDRESS, UDP_PORT } from '../scripts/lib/matrix-cell.ts';
import { pinnedNode } from '../scripts/lib/paths.ts';
import { UDP_PROGRAM } from './lib/programs.ts';
import type { EchoResult } from './lib/udp-host.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';

const DATAGRAMS = 150;
const ECHOED = 3_000;
const KILLS = 3;
const PAYLOAD_BYTES = 8_000;
const PAIRS = 2;

const cellOf = (driver: Omit<Cell, 'pairs' | 'server'>): Cell => ({
  ...driver,
  pairs: PAIRS,
  server: 'backend',
});

describe('rings of DPDK virtio-user', () => {
  const used = useScene((scene) => MatrixStage.open(scene, PAIRS, 'backend'));
  const cells = [
    cellOf({ packed: true, mergeable: true, inOrder: true, queueSize: 1000, indirect: true }),
    cellOf({ packed: false, mergeable: true, inOrder: false, queueSize: 256, indirect: true }),
    cellOf({ packed: true, mergeable: false, inOrder: false, queueSize: 256, indirect: false }),
    cellOf({ packed: false, mergeable: false, inOrder: true, queueSize: 64, indirect: false }),
  ];

  for (const cell of cells)
    test(`${cellName(cell)} > every payload arrives as it was, in chains or tables as agreed, before and after port stop and start`, async () => {
      expect(await used.value.check(cell, DATAGRAMS)).toEqual([]);
    });

  test('packed, mergeable, kill -9 of the emulator under traffic > at most one frame per queue and kill is lost or repeated', async () => {
    const stage = used.value;
    const { service, scene } = stage;
    const testpmd = await stage.start(cells[0]!);
    await testpmd.forward('5tswap');
    const words = ['echo', PEER_ADDRESS, `${UDP_PORT}`, `${ECHOED}`, `${PAYLOAD_BYTES}`];
    const echo = scene.net.run([pinnedNode, UDP_PROGRAM, ...words], { timeoutMs: 240_000 });
    for (let kill = 0; kill < KILLS; kill++) {
      const { pid } = service.killEmu();
      await service.recovered(pid);
    }
    const { sent, intact, damaged, repeated } = JSON.parse(await echo) as EchoResult;
    expect(damaged).toBe(0);
    // Each frame passes two queues: the receive queue of the function and its transmit queue.
    expect(sent - intact).toBeLessThanOrEqual(2 * KILLS);
    expect(repeated).toBeLessThanOrEqual(2 * KILLS);
    await testpmd.quit();
  });

  endsCleanly(used);
});
