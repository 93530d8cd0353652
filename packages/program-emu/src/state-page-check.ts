/** state-page-check.ts: whether what was handed over is a state page that this build can go on with. */
import { STATE_PAGE_MAGIC, STATE_PAGE_VERSION, StatePageHeader } from '@virtnet/wire';

/** What is wrong with a page, in words; null when nothing is. It has room for its header. */
export function statePageProblem(page: ArrayBuffer): string | null {
  const { magic, version } = StatePageHeader.decode(new DataView(page));
  if (magic !== STATE_PAGE_MAGIC) return 'not a state page';
  return version === STATE_PAGE_VERSION
    ? null
    : `state page of version ${version}, here ${STATE_PAGE_VERSION}`;
}
