// A client of the gateway's WebSocket protocol, written against its documents and not against
// clawsec. argv: url, options as JSON. Prints one JSON object a line: hello, res, event, close.
const crypto = require('crypto'), fs = require('fs');
const [url, text] = process.argv.slice(2);
const options = JSON.parse(text);
const role = options.role || 'operator', scopes = options.scopes || ['operator.read', 'operator.write'];
const client = { id: 'cli', version: '0.1.0', platform: 'linux', mode: 'cli', ...options.client };
const say = (kind, value) => process.stdout.write(JSON.stringify({ kind, value }) + '\n');

// A device is an Ed25519 key, kept in a file so that it can be paired.
let device = null;
if (options.deviceFile) {
  if (!fs.existsSync(options.deviceFile)) {
    const { privateKey } = crypto.generateKeyPairSync('ed25519');
    fs.writeFileSync(options.deviceFile, privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
  }
  const key = crypto.createPrivateKey(fs.readFileSync(options.deviceFile));
  const raw = crypto.createPublicKey(key).export({ type: 'spki', format: 'der' }).subarray(12);
  device = { key, raw, id: crypto.createHash('sha256').update(raw).digest('hex') };
}
function signed(challenge, auth) {
  if (!device) return undefined;
  const { nonce, ts: signedAt } = challenge;
  const token = auth.token || auth.deviceToken || '';
  const message = ['v2', device.id, client.id, client.mode, role, scopes.join(','), String(signedAt), token, nonce].join('|');
  const signature = crypto.sign(null, Buffer.from(message), device.key).toString('base64url');
  return { id: device.id, publicKey: device.raw.toString('base64url'), signature, signedAt, nonce };
}

let count = 0;
const waiting = new Map();
const socket = new WebSocket(url, options.headers ? { headers: options.headers } : undefined);
const send = (method, params) => {
  const id = String(++count);
  socket.send(JSON.stringify({ type: 'req', id, method, params }));
  return id;
};
let linger = null;
const next = () => {
  const call = (options.calls || [])[waiting.done || 0];
  waiting.done = (waiting.done || 0) + 1;
  if (call) { waiting.set(send(call[0], call[1]), call); return; }
  if (linger === null) linger = setTimeout(() => socket.close(1000), options.lingerMs || 0);
};
socket.addEventListener('message', ({ data }) => {
  const frame = JSON.parse(data);
  if (frame.event === 'connect.challenge') {
    const auth = options.auth || {};
    send('connect', {
      minProtocol: 3, maxProtocol: 4, client, role, scopes, caps: options.caps || [], commands: options.commands || [],
      permissions: {}, auth, device: signed(frame.payload, auth), locale: 'en-US', userAgent: 'driver',
    });
    return;
  }
  if (frame.type === 'res' && frame.id === '1') {
    say('hello', frame);
    if (frame.ok) next();
    return;
  }
  // A node serves what it is asked: `system.run` by echoing what it was to run.
  if (frame.event === 'node.invoke.request') {
    say('invoke', frame.payload);
    const { id, nodeId, command, paramsJSON } = frame.payload;
    const params = JSON.parse(paramsJSON || '{}');
    let answer = {};
    if (command === 'system.run') {
      answer = { exitCode: 0, timedOut: false, success: true, stdout: `node ran ${params.rawCommand}`, stderr: '', error: null };
    } else if (command === 'system.execApprovals.get') {
      answer = { path: '/x', exists: true, hash: 'h', file: { version: 1, defaults: { security: 'full', ask: 'off' }, agents: {} } };
    } else if (command === 'system.run.prepare') {
      answer = { plan: { argv: params.command, cwd: params.cwd || null, commandText: params.rawCommand || params.command.join(' '),
        commandPreview: null, agentId: params.agentId || null, sessionKey: params.sessionKey || null } };
    } else if (command === 'system.which') {
      answer = { bins: {} };
    }
    send('node.invoke.result', { id, nodeId, ok: true, payloadJSON: JSON.stringify(answer) });
    return;
  }
  if (frame.type === 'event') { say('event', frame); return; }
  say('res', frame);
  const call = waiting.get(frame.id);
  // `agent` answers twice under one id: accepted, then the result.
  const accepted = call && call[0] === 'agent' && frame.ok && frame.payload && frame.payload.status === 'accepted';
  if (call && !accepted) { waiting.delete(frame.id); next(); }
});
socket.addEventListener('close', ({ code, reason }) => { say('close', { code, reason }); process.exit(0); });
socket.addEventListener('error', (error) => say('error', String(error.message || error.type)));
setTimeout(() => { say('error', 'deadline'); process.exit(1); }, options.deadlineMs || 60000);
