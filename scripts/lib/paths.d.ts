export declare const repository: string;
/** Everything that can be made again: guest kernel and initramfs, the setup's lock. Not in git. */
export declare const cache: string;
export declare const guestCache: string;
export declare const pinnedNode: string;
/** One of the products' programs, as `npm ci` links it. */
export declare function program(name: string): string;
