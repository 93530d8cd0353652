/**
 * chaos-operator.ts: what an operator changes: by the command lines, or over the socket that these use, which costs the
 * machine no start of a program.
 */
import { type Hotplugged, parseAnswer, type Service } from '../../test/lib/service.ts';
import { deviceOf, type Observer } from './chaos-observer.ts';

/** A command may wait for an emulator that starts. */
const CHANGE_MS = 60_000;
const MTU = 1_500;
const QUEUES = 3;
const QUEUE_SIZE = 256;
const UPLINK = 'mlx5_0';

/** What every answer has; 0 is success. */
export interface Outcome {
  readonly errno: number;
}

export type Modification =
  | { readonly device: { readonly mac: string } }
  | { readonly device: { readonly mtu: number } }
  | {
      readonly queueOptions: {
        readonly periodMode: 'event';
        readonly period: number;
        readonly maxCount: number;
      };
    };

export interface Operator {
  hotplug(mac: string): Promise<Outcome & Partial<Pick<Hotplugged, 'vuid'>>>;
  unplug(vuid: string): Promise<Outcome>;
  /** Gives a PF so many VFs. */
  sriov(pf: string, count: number): Promise<Outcome>;
  modify(vuid: string, what: Modification): Promise<Outcome>;
}

/** Over the socket. */
export function socketOperator(observer: Observer): Operator {
  return {
    hotplug(mac) {
      const size = { mtu: MTU, queues: QUEUES, queuePairs: null, queueSize: QUEUE_SIZE };
      const none = { sfNum: null, features: null, legacy: false };
      return observer.ask('hotplug', { ibDevice: UPLINK, mac, ...size, ...none }, CHANGE_MS);
    },
    unplug: (vuid) => observer.ask('unplug', { pf: null, vuid }, CHANGE_MS),
    sriov: (bdf, value) => observer.ask('host', { verb: 'sriov', bdf, value, driver: null }, CHANGE_MS),
    modify: (vuid, what) => observer.ask('modify', { ...deviceOf(vuid), ...what }, CHANGE_MS),
  };
}

/** As it is typed: the command lines wait for a controller that becomes another version of itself. */
export function typingOperator(service: Service): Operator {
  const outcome = async (output: ReturnType<Service['virtnet']>) => {
    const { stdout, stderr } = await output;
    if (stdout === '') throw new Error(stderr);
    return parseAnswer(stdout) as Outcome;
  };
  return {
    hotplug(mac) {
      const size = ['-t', `${MTU}`, '-n', `${QUEUES}`, '-s', `${QUEUE_SIZE}`];
      return outcome(service.virtnet('hotplug', '-i', UPLINK, '-m', mac, ...size));
    },
    unplug: (vuid) => outcome(service.virtnet('unplug', '-u', vuid)),
    sriov: (pf, count) => outcome(service.host('sriov', pf, `${count}`)),
    modify: (vuid, what) => outcome(service.virtnet('modify', '-u', vuid, ...wordsOf(what))),
  };
}

function wordsOf(what: Modification): string[] {
  if ('queueOptions' in what) {
    const { periodMode, period, maxCount } = what.queueOptions;
    return ['queue', '-e', periodMode, '-n', `${period}`, '-c', `${maxCount}`];
  }
  return 'mac' in what.device ? ['device', '-m', what.device.mac] : ['device', '-t', `${what.device.mtu}`];
}
