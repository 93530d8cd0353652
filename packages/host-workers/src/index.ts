/**
 * @virtnet/host-workers: threads for the datapath. The only package that imports piscina.
 *
 * @example
 *   const runs = new LongRuns(workerFile, 2);
 *   const [first, second] = runs.begin(() => ({ arenaBase }), (index, error) => log(index, error));
 *   const mailbox = new MailboxSender(first.port, first.control, () => eventfdSignal(wakeFd));
 */
export * from './long-runs.js';
export * from './mailbox.js';
