/**
 * @virtnet/host-workers: threads for the datapath. The only package that imports piscina.
 *
 * @example
 *   const runs = new LongRuns(workerFile, 2, () => ({ arenaBase }), (index, error) => log(index, error));
 *   const mailbox = new MailboxSender(runs.runs[0].port, runs.runs[0].control, () => eventfdSignal(wakeFd));
 */
export * from './long-runs.js';
export * from './mailbox.js';
