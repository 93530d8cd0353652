/**
 * function-probe.ts: what a function says of itself, and what of it can be served.
 *
 * Limits  as many data queues as there are vectors for: frontends give every queue an eventfd of its own.
 * Spec    virtio 1.3, 4.1.4 (structures), 5.1.4 (configuration of a network card).
 */
import type { VfioUserClient } from '@virtnet/server-vfio-user';
import {
  hasFeature,
  MAC_BYTES,
  MTU_MAX_BYTES,
  NetConfig,
  NetFeature,
  PciCommand,
  PciHeader,
  QUEUE_PAIRS_MIN,
  u8,
  u16,
  VfioPciIrq,
  VfioPciRegion,
  viewOf,
} from '@virtnet/wire';
import { FunctionRegisters } from './function-registers.js';
import { type BarPart, WALK_BYTES, walkFunction } from './pci-walk.js';

/** What a function said of itself. */
export interface FunctionProfile {
  /** Every feature it offers. */
  readonly features: bigint;
  readonly mac: Uint8Array;
  readonly mtuBytes: number;
  /** Data queues that can be served. */
  readonly dataQueues: number;
  /** All virtqueues it has. */
  readonly queueCount: number;
  readonly queueSizeMax: number;
  readonly vectors: number;
}

/** A function that was looked at. */
export interface ProbedFunction {
  readonly profile: FunctionProfile;
  readonly common: FunctionRegisters;
  /** null: resumed, and nobody asks. */
  readonly device: FunctionRegisters | null;
  /** Queue pairs it has, with or without vectors. */
  readonly pairs: number;
  /** Offset of the MSI-X capability in configuration space. */
  readonly msixAt: number;
}

/** The same as plain data. */
export interface SavedProbe {
  readonly common: BarPart;
  readonly msixAt: number;
}

/** What is wrong with a function that answers but cannot be served. */
export class FunctionFault extends Error {
  override readonly name = 'FunctionFault';
}

/** Resets the function and reads what it is. Rejects with a FunctionFault or a VfioUserError. */
export async function probeFunction(client: VfioUserClient): Promise<ProbedFunction> {
  if (!client.server.privateCommands) throw new FunctionFault('the server does not take kick eventfds');
  const { resettable } = await client.deviceInfo();
  if (!resettable) throw new FunctionFault('the function cannot be reset');
  const layout = walkFunction(await client.read(VfioPciRegion.CONFIG, 0, WALK_BYTES));
  if ('lacks' in layout) throw new FunctionFault(`the function lacks ${layout.lacks}`);
  for (const { bar, offset, lengthBytes } of [layout.common, layout.device]) {
    const { sizeBytes, mmap } = await client.regionInfo(bar);
    if (mmap !== undefined) throw new FunctionFault('the function wants its registers mapped');
    if (offset + lengthBytes > sizeBytes) throw new FunctionFault('a structure lies outside its BAR');
  }
  await client.reset();
  await allowMemoryAccess(client);

  const common = new FunctionRegisters(client, layout.common);
  const features = await readFeatures(common);
  const queueCount = await common.readU16('queueCount');
  await common.writeU16('queueSelect', 0);
  const queueSizeMax = await common.readU16('queueSize');
  const device = new FunctionRegisters(client, layout.device);
  const { mac, mtuBytes, pairs } = await readNetConfig(device, features);
  const { count } = await client.irqInfo(VfioPciIrq.MSIX);
  const vectors = Math.min(layout.msixVectors, count);
  const served = Math.min(pairs, vectors >> 1, queueCount >> 1);
  if (served === 0 || queueSizeMax === 0) throw new FunctionFault('no queue pair with vectors of its own');
  const dataQueues = served * 2;
  const profile = { features, mac, mtuBytes, dataQueues, queueCount, queueSizeMax, vectors };
  return { profile, common, device, pairs, msixAt: layout.msixAt };
}

/** Lets the function answer accesses to its BARs, reach memory and send MSI-X. */
export async function allowMemoryAccess(client: VfioUserClient): Promise<void> {
  const command = await readConfigU16(client, PciHeader.at.command);
  await writeConfigU16(client, PciHeader.at.command, command | PciCommand.MEMORY | PciCommand.BUS_MASTER);
}

export async function readConfigU16(client: VfioUserClient, at: number): Promise<number> {
  return u16.read(viewOf(await client.read(VfioPciRegion.CONFIG, at, u16.sizeBytes)), 0);
}

export async function writeConfigU16(client: VfioUserClient, at: number, value: number): Promise<void> {
  const bytes = new Uint8Array(u16.sizeBytes);
  u16.write(viewOf(bytes), 0, value);
  await client.write(VfioPciRegion.CONFIG, at, bytes);
}

async function readFeatures(common: FunctionRegisters): Promise<bigint> {
  let features = 0n;
  for (const select of [0, 1]) {
    await common.writeU32('deviceFeatureSelect', select);
    features |= BigInt(await common.readU32('deviceFeature')) << BigInt(select * 32);
  }
  return features;
}

async function readNetConfig(device: FunctionRegisters, features: bigint) {
  const mac = new Uint8Array(MAC_BYTES);
  if (hasFeature(features, NetFeature.MAC))
    for (const i of mac.keys()) mac[i] = await device.read(NetConfig.at.mac0 + i, u8);
  const pairs = hasFeature(features, NetFeature.MQ)
    ? await device.read(NetConfig.at.maxVirtqueuePairs, u16)
    : QUEUE_PAIRS_MIN;
  const mtuBytes = hasFeature(features, NetFeature.MTU)
    ? await device.read(NetConfig.at.mtu, u16)
    : MTU_MAX_BYTES;
  return { mac, pairs, mtuBytes };
}
