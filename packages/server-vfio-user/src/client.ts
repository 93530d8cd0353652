/**
 * client.ts: a vfio-user client: what a process does with a device that lives in another.
 *
 * Theory
 *   One method per command. Each sends its message at once and resolves with the server's answer, so that calls can
 *   be pipelined; the server works them in order. Failures reject with a VfioUserError that carries the errno.
 *
 * Invariants
 *   I1  private commands are sent only to a server that announced them; else they reject with EOPNOTSUPP.
 *   I2  no message carries more descriptors or data than the server said it takes.
 *
 * Limits  client-channel.ts.
 */
import { closeAll, connect, type Poller } from '@virtnet/host-linux';
import {
  Errno,
  VFIO_USER_PRIVATE_VERSION,
  VfioUserCapability,
  VfioUserCommand,
  VfioUserDeviceFlags,
  VfioUserDeviceInfo,
  VfioUserDmaFlags,
  VfioUserDmaMap,
  VfioUserDmaUnmap,
  VfioUserIoEventFd,
  VfioUserIoEventFdFlags,
  VfioUserIoFdType,
  VfioUserIrqFlags,
  VfioUserIrqInfo,
  VfioUserIrqSet,
  VfioUserIrqSetFlags,
  VfioUserQueue,
  VfioUserQueueBase,
  VfioUserQueueEnable,
  VfioUserQueueKick,
  VfioUserRegionAccess,
  VfioUserRegionInfo,
  VfioUserRegionIoFds,
  VfioUserUnmapFlags,
  VfioUserWriteMulti,
  VfioUserWriteOne,
  viewOf,
} from '@virtnet/wire';
import { ClientChannel, type LastRequest, type Reply, VfioUserError } from './client-channel.js';
import { parseRegionInfo } from './client-region-info.js';
import { safeNumber } from './command.js';
import type {
  DeviceInfo,
  DmaMapRequest,
  DmaRange,
  IrqInfo,
  IrqRequest,
  RegionEventFd,
  RegionInfo,
} from './device.js';
import {
  CLIENT_MESSAGE_BYTES_MAX,
  CLIENT_TIMEOUT_MS,
  DATA_TRANSFER_BYTES_MAX,
  MESSAGE_FDS_MAX,
} from './limits.js';
import { decodeVersion, encodeVersion, type Negotiated, readCapabilities } from './version.js';

export interface VfioUserClientOptions {
  readonly poller: Poller;
  /** Per request; CLIENT_TIMEOUT_MS when absent. */
  readonly timeoutMs?: number;
  /** false: behave like a stranger, without private commands. */
  readonly announcePrivate?: boolean;
  /** Outlives this process; the successor is given the same. */
  readonly last?: LastRequest;
  /** Called once when the connection is over; errno 0 when either side closed it. */
  onClose?(errno: number): void;
}

const irqActionFlag = {
  mask: VfioUserIrqSetFlags.ACTION_MASK,
  unmask: VfioUserIrqSetFlags.ACTION_UNMASK,
  trigger: VfioUserIrqSetFlags.ACTION_TRIGGER,
} as const;
const irqDataFlag = {
  none: VfioUserIrqSetFlags.DATA_NONE,
  bool: VfioUserIrqSetFlags.DATA_BOOL,
  eventfd: VfioUserIrqSetFlags.DATA_EVENTFD,
} as const;
const NO_BODY = new Uint8Array(0);

export class VfioUserClient {
  readonly #channel: ClientChannel;
  /** What the server takes. */
  readonly server: Negotiated;

  private constructor(channel: ClientChannel, server: Negotiated) {
    this.#channel = channel;
    this.server = server;
  }

  /** Connects to the server at `path` and agrees on a version. */
  static async connect(path: string, options: VfioUserClientOptions): Promise<VfioUserClient> {
    const fd = connect(path, 'stream');
    if (fd < 0) throw new VfioUserError(VfioUserCommand.VERSION, -fd);
    return VfioUserClient.over(fd, options);
  }

  /** Agrees on a version over a connected socket, which is the client's from here on, also when this rejects. */
  static async over(fd: number, options: VfioUserClientOptions): Promise<VfioUserClient> {
    const { announcePrivate = true } = options;
    const channel = openChannel(fd, options);
    const capabilities = {
      [VfioUserCapability.MAX_MSG_FDS]: MESSAGE_FDS_MAX,
      [VfioUserCapability.MAX_DATA_XFER_SIZE]: DATA_TRANSFER_BYTES_MAX,
      [VfioUserCapability.WRITE_MULTIPLE]: true,
      ...(announcePrivate ? { [VfioUserCapability.PRIVATE]: VFIO_USER_PRIVATE_VERSION } : {}),
    };
    try {
      const { body } = await channel.request(VfioUserCommand.VERSION, encodeVersion(capabilities));
      const answer = decodeVersion(body);
      const server = typeof answer === 'number' ? null : readCapabilities(answer);
      if (server === null) throw new VfioUserError(VfioUserCommand.VERSION, Errno.EPROTO);
      const privateCommands = announcePrivate && server.privateCommands;
      return new VfioUserClient(channel, { ...server, privateCommands });
    } catch (error) {
      channel.close();
      throw error;
    }
  }

  /**
   * Goes on with a connection of a process that died: `server` is what that had agreed on, `options.last` its own. A
   * reply that was on its way to it is dropped. The socket is the client's from here on, also when this throws.
   */
  static adopt(fd: number, server: Negotiated, options: VfioUserClientOptions): VfioUserClient {
    return new VfioUserClient(openChannel(fd, options), server);
  }

  get isOpen(): boolean {
    return this.#channel.isOpen;
  }

  /** The socket. It stays the client's. */
  get fd(): number {
    return this.#channel.fd;
  }

  /** Replies that nobody waited for: second answers of a server that was replaced, or late ones. */
  get strayReplies(): number {
    return this.#channel.strayReplies;
  }

  /** Ends the connection; requests under way reject with ENOTCONN. */
  close(): void {
    this.#channel.close();
  }

  async deviceInfo(): Promise<DeviceInfo & { readonly pci: boolean }> {
    const request = { argsz: VfioUserDeviceInfo.sizeBytes, flags: 0, regionCount: 0, irqTypeCount: 0 };
    const command = VfioUserCommand.DEVICE_GET_INFO;
    const { view } = await this.#ask(
      command,
      VfioUserDeviceInfo.bytes(request),
      VfioUserDeviceInfo.sizeBytes,
    );
    const { flags, regionCount, irqTypeCount } = VfioUserDeviceInfo.decode(view);
    return {
      regionCount,
      irqTypeCount,
      resettable: (flags & VfioUserDeviceFlags.RESET) !== 0,
      pci: (flags & VfioUserDeviceFlags.PCI) !== 0,
    };
  }

  /** With an `mmap` part its descriptor is the caller's. */
  async regionInfo(index: number): Promise<RegionInfo> {
    const command = VfioUserCommand.DEVICE_GET_REGION_INFO;
    let argsz: number = VfioUserRegionInfo.sizeBytes;
    for (;;) {
      const zero = { flags: 0, capabilityOffset: 0, sizeBytes: 0n, mmapOffset: 0n };
      const body = VfioUserRegionInfo.bytes({ argsz, index, ...zero });
      const { view, fds } = await this.#ask(command, body, VfioUserRegionInfo.sizeBytes, { fdsExpected: 1 });
      const needed = VfioUserRegionInfo.decode(view).argsz;
      if (needed > argsz && needed <= CLIENT_MESSAGE_BYTES_MAX) {
        closeAll(fds);
        argsz = needed; // grows each time, so this ends
        continue;
      }
      const region = parseRegionInfo(view, fds[0] ?? null);
      if (region?.mmap === undefined) closeAll(fds);
      if (region === null) throw new VfioUserError(command, Errno.EPROTO);
      return region;
    }
  }

  async irqInfo(index: number): Promise<IrqInfo> {
    const request = { argsz: VfioUserIrqInfo.sizeBytes, flags: 0, index, count: 0 };
    const command = VfioUserCommand.DEVICE_GET_IRQ_INFO;
    const { view } = await this.#ask(command, VfioUserIrqInfo.bytes(request), VfioUserIrqInfo.sizeBytes);
    const { flags, count } = VfioUserIrqInfo.decode(view);
    return {
      count,
      eventfd: (flags & VfioUserIrqFlags.EVENTFD) !== 0,
      maskable: (flags & VfioUserIrqFlags.MASKABLE) !== 0,
      automasked: (flags & VfioUserIrqFlags.AUTOMASKED) !== 0,
      noResize: (flags & VfioUserIrqFlags.NORESIZE) !== 0,
    };
  }

  /** Eventfds to signal instead of writing; entries may share one, and all are the caller's. */
  async regionIoFds(index: number): Promise<readonly RegionEventFd[]> {
    const command = VfioUserCommand.DEVICE_GET_REGION_IO_FDS;
    const request = VfioUserRegionIoFds.bytes({ argsz: DATA_TRANSFER_BYTES_MAX, flags: 0, index, count: 0 });
    const options = { fdsExpected: MESSAGE_FDS_MAX };
    const { view, fds } = await this.#ask(command, request, VfioUserRegionIoFds.sizeBytes, options);
    const { count } = VfioUserRegionIoFds.decode(view);
    const room = (view.byteLength - VfioUserRegionIoFds.sizeBytes) / VfioUserIoEventFd.sizeBytes;
    const entries: RegionEventFd[] = [];
    for (let i = 0; i < Math.min(count, Math.floor(room)); i++) {
      const at = VfioUserRegionIoFds.sizeBytes + i * VfioUserIoEventFd.sizeBytes;
      const entry = VfioUserIoEventFd.decode(view, at);
      const fd = fds[entry.fdIndex];
      const offset = safeNumber(entry.offset);
      const sizeBytes = safeNumber(entry.sizeBytes);
      if (fd === undefined || offset < 0 || sizeBytes < 0 || entry.type !== VfioUserIoFdType.IOEVENTFD)
        continue;
      const matches = (entry.flags & VfioUserIoEventFdFlags.DATAMATCH) !== 0;
      entries.push({ offset, sizeBytes, fd, dataMatch: matches ? entry.dataMatch : null });
    }
    closeAll(fds.filter((fd) => !entries.some((entry) => entry.fd === fd)));
    return entries;
  }

  async read(region: number, offset: number, count: number): Promise<Uint8Array> {
    const command = VfioUserCommand.REGION_READ;
    if (count > DATA_TRANSFER_BYTES_MAX) throw new VfioUserError(command, Errno.EINVAL);
    const access = { offset: BigInt(offset), region, count };
    const needed = VfioUserRegionAccess.sizeBytes + count;
    const { body } = await this.#ask(command, VfioUserRegionAccess.bytes(access), needed);
    return body.subarray(VfioUserRegionAccess.sizeBytes, needed);
  }

  /** `posted`: resolves when the message is on its way; an error of the server stays unknown. */
  async write(region: number, offset: number, bytes: Uint8Array, { posted = false } = {}): Promise<void> {
    const command = VfioUserCommand.REGION_WRITE;
    if (bytes.length > this.server.peerDataTransferBytesMax) throw new VfioUserError(command, Errno.EINVAL);
    const access = { offset: BigInt(offset), region, count: bytes.length };
    const body = join(VfioUserRegionAccess.bytes(access), bytes);
    if (posted) this.#channel.post(command, body);
    else await this.#ask(command, body, VfioUserRegionAccess.sizeBytes);
  }

  /** Several writes of up to 8 bytes in one message; resolves with how many were made. */
  async writeMulti(
    writes: readonly { readonly region: number; readonly offset: number; readonly bytes: Uint8Array }[],
  ): Promise<number> {
    const command = VfioUserCommand.REGION_WRITE_MULTI;
    if (!this.server.writeMultiple) throw new VfioUserError(command, Errno.EOPNOTSUPP);
    const body = new Uint8Array(VfioUserWriteMulti.sizeBytes + writes.length * VfioUserWriteOne.sizeBytes);
    const out = viewOf(body);
    let at = VfioUserWriteMulti.encode(out, 0, { writeCount: BigInt(writes.length) });
    for (const { region, offset, bytes } of writes) {
      VfioUserWriteOne.encode(out, at, { offset: BigInt(offset), region, count: bytes.length, data: 0n });
      if (bytes.length > VfioUserWriteOne.sizeBytes - VfioUserWriteOne.at.data) {
        throw new VfioUserError(command, Errno.EINVAL);
      }
      body.set(bytes, at + VfioUserWriteOne.at.data);
      at += VfioUserWriteOne.sizeBytes;
    }
    const { view } = await this.#ask(command, body, VfioUserWriteMulti.sizeBytes);
    return Number(VfioUserWriteMulti.decode(view).writeCount);
  }

  /** The descriptor stays the caller's; it must be open until this settles. */
  async dmaMap({ iova, sizeBytes, fd, fdOffset, readable, writable }: DmaMapRequest): Promise<void> {
    const body = VfioUserDmaMap.bytes({
      argsz: VfioUserDmaMap.sizeBytes,
      flags: (readable ? VfioUserDmaFlags.READ : 0) | (writable ? VfioUserDmaFlags.WRITE : 0),
      fdOffset: BigInt(fdOffset),
      iova,
      sizeBytes: BigInt(sizeBytes),
    });
    await this.#ask(VfioUserCommand.DMA_MAP, body, 0, { fds: fd === null ? [] : [fd] });
  }

  /** When this resolves the device no longer touches the range. */
  async dmaUnmap({ iova, sizeBytes }: DmaRange): Promise<void> {
    await this.#unmap(0, iova, sizeBytes);
  }

  async dmaUnmapAll(): Promise<void> {
    await this.#unmap(VfioUserUnmapFlags.ALL, 0n, 0);
  }

  /** Eventfds go in as many messages as the server's limit asks for; they stay the caller's. */
  async setIrqs({ index, start, count, action, data, values = [], fds = [] }: IrqRequest): Promise<void> {
    const flags = irqActionFlag[action] | irqDataFlag[data];
    const argsz = VfioUserIrqSet.sizeBytes + values.length;
    if (fds.length === 0) {
      const bytes = Uint8Array.from(values, (value) => (value ? 1 : 0));
      const body = join(VfioUserIrqSet.bytes({ argsz, flags, index, start, count }), bytes);
      await this.#ask(VfioUserCommand.DEVICE_SET_IRQS, body, 0);
      return;
    }
    const perMessage = Math.max(1, Math.min(this.server.peerMessageFdsMax, MESSAGE_FDS_MAX));
    for (let first = 0; first < fds.length; first += perMessage) {
      const chunk = fds.slice(first, first + perMessage);
      const part = { argsz, flags, index, start: start + first, count: chunk.length };
      await this.#ask(VfioUserCommand.DEVICE_SET_IRQS, VfioUserIrqSet.bytes(part), 0, { fds: chunk });
    }
  }

  async reset(): Promise<void> {
    await this.#ask(VfioUserCommand.DEVICE_RESET, NO_BODY, 0);
  }

  /** Hands over the eventfd the driver kicks a queue with, or with null takes it back. */
  async queueKick(queue: number, fd: number | null, flags = 0): Promise<void> {
    const body = VfioUserQueueKick.bytes({ queue, flags });
    await this.#askPrivate(VfioUserCommand.QUEUE_KICK, body, 0, fd === null ? [] : [fd]);
  }

  async queueBaseSet(queue: number, base: number): Promise<void> {
    await this.#askPrivate(VfioUserCommand.QUEUE_BASE_SET, VfioUserQueueBase.bytes({ queue, base }), 0);
  }

  /** Stops the queue and resolves with its position. */
  async queueBaseGet(queue: number): Promise<number> {
    const body = VfioUserQueue.bytes({ queue, reserved: 0 });
    const { view } = await this.#askPrivate(
      VfioUserCommand.QUEUE_BASE_GET,
      body,
      VfioUserQueueBase.sizeBytes,
    );
    return VfioUserQueueBase.decode(view).base;
  }

  async queueEnable(queue: number, enabled: boolean): Promise<void> {
    const body = VfioUserQueueEnable.bytes({ queue, enabled: enabled ? 1 : 0 });
    await this.#askPrivate(VfioUserCommand.QUEUE_ENABLE, body, 0);
  }

  async #unmap(flags: number, iova: bigint, sizeBytes: number): Promise<void> {
    const range = { argsz: VfioUserDmaUnmap.sizeBytes, flags, iova, sizeBytes: BigInt(sizeBytes) };
    await this.#ask(VfioUserCommand.DMA_UNMAP, VfioUserDmaUnmap.bytes(range), 0);
  }

  #askPrivate(
    command: VfioUserCommand,
    body: Uint8Array,
    replyBytesMin: number,
    fds: readonly number[] = [],
  ) {
    if (this.server.privateCommands) return this.#ask(command, body, replyBytesMin, { fds });
    return Promise.reject(new VfioUserError(command, Errno.EOPNOTSUPP));
  }

  async #ask(
    command: VfioUserCommand,
    body: Uint8Array,
    replyBytesMin: number,
    options: { fds?: readonly number[]; fdsExpected?: number } = {},
  ): Promise<Reply> {
    const reply = await this.#channel.request(command, body, options);
    if (reply.body.length >= replyBytesMin) return reply;
    closeAll(reply.fds);
    throw new VfioUserError(command, Errno.EPROTO);
  }
}

/** Takes the socket over, or closes it and throws. */
function openChannel(fd: number, options: VfioUserClientOptions): ClientChannel {
  const { poller, timeoutMs = CLIENT_TIMEOUT_MS, onClose = () => {}, last = { id: 0 } } = options;
  const channel = ClientChannel.open(fd, { poller, timeoutMs, onClose, last });
  if (typeof channel !== 'number') return channel;
  closeAll([fd]);
  throw new VfioUserError(VfioUserCommand.VERSION, -channel);
}

function join(head: Uint8Array, tail: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(head.length + tail.length);
  bytes.set(head);
  bytes.set(tail, head.length);
  return bytes;
}
