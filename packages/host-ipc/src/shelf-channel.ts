/** shelf-channel.ts: both ends of the channel that carries descriptors between the emulators and the state keeper. */
export * from './shelf-client.js';
export * from './shelf-server.js';
