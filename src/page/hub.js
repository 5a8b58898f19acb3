// The shared worker: one hub for all tabs of this browser.
import { Hub } from './stream.js';

const hub = new Hub();
addEventListener('connect', ({ ports: [port] }) => hub.serve(port));
