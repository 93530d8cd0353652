/**
 * vf-pool.ts: the MSI-X vectors and queue pairs that the VFs of one PF share.
 *
 * Theory
 *   Every VF starts with the same share, so the pool is empty at first. A VF that is given fewer leaves the rest in
 *   the pool; another may be given more out of it. The pool is never counted by itself: it is what the shares of all
 *   VFs together leave of what they started with.
 *   Each data queue should have a vector of its own, so a change of a VF's vectors changes its queue pairs as well:
 *   one vector for the configuration, one for the control queue, two for each pair. A change of queue pairs leaves
 *   the vectors alone; queues share vectors then.
 *
 * Invariants
 *   I1  no plan makes what is free negative.
 *   I2  a VF's share is within its caps.
 */
import { type ControlErrorName, type Failure, failure } from './errors.js';
import type { VfPool } from './facts.js';
import { MSIX_VECTORS_MIN } from './limits.js';

/** What one VF has. */
export interface VfShare {
  readonly msixVectors: number;
  readonly queuePairs: number;
}

/** What a PF's VFs start with, and the most that one of them may have. */
export interface VfPoolRules {
  readonly initial: VfShare;
  readonly most: VfShare;
}

/** Vectors that belong to no data queue: configuration and control queue. */
const OTHER_VECTORS = 2;

/** Queue pairs whose queues all have a vector of their own. */
export function pairsWithVectors(msixVectors: number): number {
  return Math.max(0, Math.floor((msixVectors - OTHER_VECTORS) / 2));
}

/** The pool as list shows it. `shares`: of all VFs that exist. */
export function vfPool({ initial, most }: VfPoolRules, shares: readonly VfShare[]): VfPool {
  const used = (of: (share: VfShare) => number): number => shares.reduce((sum, share) => sum + of(share), 0);
  return {
    msixFree: shares.length * initial.msixVectors - used((share) => share.msixVectors),
    msixMin: 0,
    msixMax: most.msixVectors,
    queuePairsMin: 0,
    queuePairsMax: most.queuePairs,
    queuePairsFree: shares.length * initial.queuePairs - used((share) => share.queuePairs),
  };
}

/**
 * A VF's share after `modify device -n`: an even number from 4 up, or 0, which leaves it without function. The pairs
 * follow the vectors as far as the pool has them.
 */
export function shareWithVectors(pool: VfPool, share: VfShare, msixVectors: number): VfShare | Failure {
  const possible = msixVectors === 0 || (msixVectors >= MSIX_VECTORS_MIN && msixVectors % 2 === 0);
  if (!possible || !isAvailable(msixVectors, share.msixVectors, pool.msixFree, pool.msixMax))
    return failure('MSIX_INVALID');
  const pairsMost = Math.min(pool.queuePairsMax, share.queuePairs + pool.queuePairsFree);
  return { msixVectors, queuePairs: Math.min(pairsWithVectors(msixVectors), pairsMost) };
}

/** A VF's share after `modify device -qp`; 0 leaves it without function. */
export function shareWithPairs(pool: VfPool, share: VfShare, queuePairs: number): VfShare | Failure {
  const { queuePairsFree, queuePairsMax } = pool;
  if (!isAvailable(queuePairs, share.queuePairs, queuePairsFree, queuePairsMax))
    return failure('QUEUES_INVALID');
  return { ...share, queuePairs };
}

function isAvailable(wanted: number, has: number, free: number, most: number): boolean {
  return Number.isInteger(wanted) && wanted >= 0 && wanted <= most && wanted - has <= free;
}

/** Whether a driver can use a function with this share. */
export function isFunctional({ msixVectors, queuePairs }: VfShare): boolean {
  return msixVectors > 0 && queuePairs > 0;
}

/** What a share without function is answered with: it is carried out, and this says what follows. */
export function shareWarning(share: VfShare): ControlErrorName | null {
  return isFunctional(share) ? null : 'DEV_NOT_FUNCTIONAL';
}
