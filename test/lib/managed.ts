/** Programs under a service manager that keeps descriptors as systemd does. */
import { mkdirSync } from 'node:fs';
import { program } from '../../scripts/lib/paths.ts';
import type { Scene } from './scene.ts';
import { Service } from './service.ts';
import { FakeServiceManager } from './service-manager.ts';

/** A program of the service at `root`, not started yet. `name`: of its log, if it is not the program's. */
export async function managed(
  scene: Scene,
  what: string,
  root: string,
  { words = [], name = what }: { readonly words?: readonly string[]; readonly name?: string } = {},
): Promise<FakeServiceManager> {
  const manager = await FakeServiceManager.open({
    socket: scene.path(`${name}.notify`),
    command: scene.net.inside([program(what), ...words]),
    env: { VIRTNET_ROOT: root, VIRTNET_TEST_MARK: scene.processes.mark },
    log: scene.path(`${name}.log`),
  });
  scene.atEnd(() => manager.close());
  return manager;
}

/** The service, ready. */
export async function managedService(
  scene: Scene,
): Promise<{ readonly manager: FakeServiceManager; readonly service: Service }> {
  const root = scene.path('root');
  mkdirSync(root, { recursive: true });
  const manager = await managed(scene, 'virtio_net_controller', root, { name: 'controller' });
  manager.start();
  await manager.ready();
  return { manager, service: Service.attached(scene, root) };
}
