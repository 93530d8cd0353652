import { Scene } from '../test/lib/scene.ts';
import { type Cell, cellName, MatrixStage } from './lib/matrix-cell.ts';

const scene = await Scene.open();
try {
  const server = (process.argv[2] ?? 'backend') as Cell['server'];
  const stage = await MatrixStage.open(scene, 1, server);
  for (const packed of [true, false])
    for (const mergeable of [true, false])
      for (const inOrder of [false, true]) {
        const cell: Cell = {
          packed,
          mergeable,
          inOrder,
          pairs: 1,
          queueSize: packed ? 1000 : 256,
          segmented: true,
          server,
        };
        const t = Date.now();
        console.log(cellName(cell), await stage.check(cell, 500), Date.now() - t);
      }
} finally {
  console.log(await scene.end());
}
