/** chaos-changes.ts: what is changed in the functions that there are. Each change is known to the stage, which checks it. */
import type { Operator } from './chaos-operator.ts';
import type { ChaosStage } from './chaos-stage.ts';

export type Change = (stage: ChaosStage, random: () => number, operator?: Operator) => Promise<void>;

const VFS_MAX = 3;
const MTU_MIN = 1_280;
const MTU_CHOICES = 700;
const PERIOD_US_MAX = 200;
const COUNT_MAX = 16;

export const unplugOrPlug: Change = async (stage, _random, operator = stage.operator) => {
  const { extra } = stage;
  const answer: Awaited<ReturnType<Operator['hotplug']>> = await (extra === null
    ? operator.hotplug(stage.extraMac)
    : operator.unplug(extra.vuid));
  const { errno, vuid = null } = answer;
  if (errno !== 0 || (extra === null) !== (vuid !== null))
    throw new Error(`${extra === null ? 'hotplug' : 'unplug'}: ${JSON.stringify(answer)}`);
  stage.extra = vuid === null ? null : { vuid };
};

async function setVfs(stage: ChaosStage, count: number, operator: Operator): Promise<void> {
  const answer = await operator.sriov(stage.staticPf, count);
  if (answer.errno !== 0) throw new Error(`sriov ${count}: ${JSON.stringify(answer)}`);
  stage.vfs = count;
}

export const changeVfs: Change = (stage, random, operator = stage.operator) =>
  setVfs(stage, stage.vfs > 0 ? 0 : 1 + Math.floor(random() * VFS_MAX), operator);

/** VFs leave their representors to those that come after them: from now on there are as many as there will ever be. */
export async function fillPool(stage: ChaosStage): Promise<void> {
  for (const count of [VFS_MAX, 0]) {
    await setVfs(stage, count, stage.operator);
    await stage.check();
  }
}

/** Back to the functions of the beginning. */
export async function tidy(stage: ChaosStage): Promise<void> {
  if (stage.extra !== null) await unplugOrPlug(stage, Math.random);
  if (stage.vfs > 0) await setVfs(stage, 0, stage.operator);
  await stage.check();
}

/** Another address or MTU of the function without a driver, or another moderation of one under streams. */
export const modify: Change = async (stage, random, operator = stage.operator) => {
  const { settings, target, driven } = stage;
  const below = (limit: number) => Math.floor(random() * limit);
  const ask = async (...[vuid, what]: Parameters<Operator['modify']>) => {
    const answer = await operator.modify(vuid, what);
    if (answer.errno !== 0) throw new Error(`modify ${JSON.stringify(what)}: ${JSON.stringify(answer)}`);
  };
  const choice = below(3);
  if (choice === 0) {
    const mac = `0C:C4:7A:FF:23:${below(256).toString(16).toUpperCase().padStart(2, '0')}`;
    await ask(target.vuid, { device: { mac } });
    settings.mac = mac;
  } else if (choice === 1) {
    const mtu = MTU_MIN + below(MTU_CHOICES);
    await ask(target.vuid, { device: { mtu } });
    settings.mtu = mtu;
  } else {
    const [period, maxCount] = [1 + below(PERIOD_US_MAX), 1 + below(COUNT_MAX)];
    await ask(driven.vuid, { queueOptions: { periodMode: 'event', period, maxCount } });
    settings.period = period;
    settings.maxCount = maxCount;
  }
};
