export * from './driven-functions.js';
