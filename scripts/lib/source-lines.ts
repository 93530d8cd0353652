/** source-lines.ts: for each line of a bundle the place in the sources it came from, as host-ipc's source-lines.ts reads it. */
import { SourceMap, type SourceMapPayload, type SourceMapping } from 'node:module';
import { relative, resolve } from 'node:path';
import { repository } from './paths.ts';

/** Nothing is found where a line has no mapping. */
function isMapping(entry: object): entry is SourceMapping {
  return 'originalSource' in entry;
}

/** `map` is the bundle's, its paths relative to `directory`. */
export function sourceLines(map: string, directory: string): string {
  const payload = JSON.parse(map) as SourceMapPayload;
  const entries = new SourceMap(payload);
  const sources = new Map<string, number>();
  const places: number[] = [];
  for (const [line, mappings] of payload.mappings.split(';').entries()) {
    const entry = mappings === '' ? null : entries.findEntry(line, Number.MAX_SAFE_INTEGER);
    if (entry === null || !isMapping(entry)) {
      places.push(0, 0);
      continue;
    }
    const source = relative(repository, resolve(directory, entry.originalSource));
    if (!sources.has(source)) sources.set(source, sources.size);
    places.push(sources.get(source)!, entry.originalLine + 1);
  }
  const table = Buffer.from(Uint16Array.from(places).buffer).toString('base64');
  return JSON.stringify({ sources: [...sources.keys()], table });
}
