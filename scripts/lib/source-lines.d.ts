/** `map` is the bundle's, its paths relative to `directory`. */
export declare function sourceLines(map: string, directory: string): string;
