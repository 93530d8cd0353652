/**
 * frontend.ts: the frontend's end of vhost-user, for tests and probes.
 *
 * Theory
 *   Requests go out as the caller says, well-formed or not. Replies come back in order; each belongs to the oldest
 *   request that expects one, and must name it.
 *
 * Limits  A reply is at most as large as a request may be.
 */
import { close, type Poller, send, type Watch } from '@virtnet/host-linux';
import {
  Errno,
  VhostUserFlags,
  VhostUserMemoryRegion,
  VhostUserMemoryTable,
  VhostUserRequest,
  VhostUserSingleRegion,
  VhostUserU64,
  VhostUserVringAddress,
  VhostUserVringFd,
  VhostUserVringState,
  viewOf,
} from '@virtnet/wire';
import type { GuestRegion } from './memory-table.js';
import { MessageReader } from './message-reader.js';
import { encodeMessage, type RegionDescription, type VringAddress } from './requests.js';

const R = VhostUserRequest;

/** What a frontend promise rejects with when the backend closes, or answers what was not asked. */
export class FrontendClosed extends Error {
  override readonly name = 'FrontendClosed';
}

interface Expected extends PromiseWithResolvers<Uint8Array> {
  readonly request: number;
}

export class VhostUserFrontend {
  readonly #fd: number;
  readonly #reader: MessageReader;
  readonly #watch: Watch;
  readonly #expected: Expected[] = [];
  readonly #ended = Promise.withResolvers<void>();
  #open = true;
  /** Replies that nobody had asked for. */
  unexpected = 0;

  /** Takes the connected socket `fd` over. */
  constructor(fd: number, poller: Poller) {
    this.#fd = fd;
    this.#reader = new MessageReader(fd);
    const watch = poller.watch(fd, { readable: true }, () => this.#read());
    if (typeof watch === 'number') throw new FrontendClosed(`cannot watch the socket: errno ${-watch}`);
    this.#watch = watch;
  }

  /** Resolves when the connection has ended, from either side. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watch.close();
    this.#reader.dispose();
    close(this.#fd);
    for (const { reject } of this.#expected.splice(0)) reject(new FrontendClosed('connection closed'));
    this.#ended.resolve();
  }

  /** Sends bytes as they are. The result of send(). */
  raw(bytes: Uint8Array, fds: readonly number[] = []): number {
    return this.#open ? send(this.#fd, bytes, fds) : -Errno.ENOTCONN;
  }

  /** Sends a request without waiting for anything. */
  post(
    request: number,
    payload: Uint8Array = new Uint8Array(),
    fds: readonly number[] = [],
    flags = 0,
  ): number {
    return this.raw(encodeMessage(request, VhostUserFlags.VERSION | flags, payload), fds);
  }

  /** Waits for the answer to a request that was, or will be, sent raw. */
  expect(request: number): Promise<Uint8Array> {
    const expected = { request, ...Promise.withResolvers<Uint8Array>() };
    this.#expected.push(expected);
    return expected.promise;
  }

  /** Sends a request that is answered, and waits; rejects with FrontendClosed. */
  ask(request: number, payload?: Uint8Array, fds?: readonly number[], flags = 0): Promise<Uint8Array> {
    const expected = { request, ...Promise.withResolvers<Uint8Array>() };
    this.#expected.push(expected);
    if (this.post(request, payload, fds, flags) < 0) {
      this.#expected.splice(this.#expected.indexOf(expected), 1);
      expected.reject(new FrontendClosed('cannot send'));
    }
    return expected.promise;
  }

  /** Sends a request with NEED_REPLY; resolves to the acknowledgement, 0 for success. */
  async acknowledged(request: number, payload?: Uint8Array, fds?: readonly number[]): Promise<number> {
    return Number(u64Of(await this.ask(request, payload, fds, VhostUserFlags.NEED_REPLY)));
  }

  async getU64(request: number, flags = 0): Promise<bigint> {
    return u64Of(await this.ask(request, undefined, undefined, flags));
  }

  async getVringBase(index: number): Promise<number> {
    const reply = await this.ask(R.GET_VRING_BASE, frontendPayload.vringState(index, 0));
    return VhostUserVringState.decode(viewOf(reply)).value;
  }

  #read(): void {
    while (this.#open) {
      const read = this.#reader.next();
      if (read === 'again') return;
      if (read === 'end' || 'fault' in read) {
        this.close();
        return;
      }
      const { request, payload, fds } = read.message;
      for (const fd of fds) close(fd);
      const expected = this.#expected[0];
      if (expected?.request !== request) {
        this.unexpected++;
        continue;
      }
      this.#expected.shift();
      expected.resolve(payload);
    }
  }
}

export function u64Of(payload: Uint8Array): bigint {
  return VhostUserU64.decode(viewOf(payload)).value;
}

/** Payloads as a well-behaved frontend makes them. */
export const frontendPayload = {
  u64: (value: bigint | number) => VhostUserU64.bytes({ value: BigInt(value) }),
  vringState: (index: number, value: number) => VhostUserVringState.bytes({ index, value }),
  vringFd: (index: number, hasFd: boolean) =>
    VhostUserU64.bytes({ value: BigInt(index) | (hasFd ? 0n : VhostUserVringFd.NO_FD) }),
  vringAddress: (addresses: VringAddress) => VhostUserVringAddress.bytes(addresses),
  memoryTable(regions: readonly RegionDescription[]): Uint8Array {
    const size = VhostUserMemoryRegion.sizeBytes;
    const bytes = new Uint8Array(VhostUserMemoryTable.sizeBytes + regions.length * size);
    VhostUserMemoryTable.encode(viewOf(bytes), 0, { regionCount: regions.length, padding: 0 });
    for (const [i, region] of regions.entries())
      VhostUserMemoryRegion.encode(viewOf(bytes), VhostUserMemoryTable.sizeBytes + i * size, region);
    return bytes;
  },
  singleRegion: (region: RegionDescription | GuestRegion) =>
    VhostUserSingleRegion.bytes({ padding: 0n, ...region }),
} as const;
