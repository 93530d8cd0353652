import { VIRT_QUEUES_MAX } from '@virtnet/engine-control';
import { takeMarks } from '@virtnet/engine-recovery';
import { close, memfdCreate, PAGE_BYTES, writtenRanges } from '@virtnet/host-linux';
import { QueueWord, queueBlock, queueBlockAt, StatePageHeader, statePageFileSize } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { mapPage, type PageMapping } from './page-mapping.js';

const QUEUES = 63;
/** Far behind the header, in a page of its own. */
const WORKED = 40;

describe('state page of which little was written', () => {
  let page: PageMapping;

  beforeEach(() => {
    page = mapPage(memfdCreate('state-page', statePageFileSize(VIRT_QUEUES_MAX)))!;
    page.view(QUEUES);
    new Uint32Array(page.buffer)[StatePageHeader.at.queueCount / 4] = QUEUES;
    queueBlock(page.buffer, WORKED).words[QueueWord.UNDER_WORK] = 1;
  });
  afterEach(() => {
    page.close();
    close(page.fd);
  });

  const pagesOf = () =>
    writtenRanges(page.fd).map(({ start, end }) => [start, end].map((at) => at / PAGE_BYTES));
  const MARK_PAGE = Math.floor((queueBlockAt(WORKED) + QueueWord.UNDER_WORK * 4) / PAGE_BYTES);

  it('marks are found and taken away, and the look makes no memory', () => {
    const before = pagesOf();
    expect(before).toEqual([
      [0, 1],
      [MARK_PAGE, MARK_PAGE + 1],
    ]);
    expect(takeMarks(page.buffer, page.written())).toEqual({
      queues: [{ queue: WORKED, lane: null }],
      request: false,
    });
    expect(takeMarks(page.buffer, page.written())).toBeNull();
    expect(pagesOf()).toEqual(before);
  });

  it('is mapped ahead without making memory or changing anything; what is not viewed is left alone', () => {
    const before = pagesOf();
    page.mapAhead();
    expect(pagesOf()).toEqual(before);
    expect(queueBlock(page.buffer, WORKED).words[QueueWord.UNDER_WORK]).toBe(1);
    const again = mapPage(page.fd)!;
    again.mapAhead();
    expect(pagesOf()).toEqual(before);
    again.close();
  });

  it('of each byte it is known whether its page was written', () => {
    const isWritten = page.written();
    const at = MARK_PAGE * PAGE_BYTES;
    expect([isWritten(0, 1), isWritten(PAGE_BYTES, 1), isWritten(at - 4, 4), isWritten(at - 4, 5)]).toEqual([
      true,
      false,
      false,
      true,
    ]);
  });
});
