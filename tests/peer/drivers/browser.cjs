// Drives a headless Chromium as a person would. argv: options as JSON, the steps among them.
// Prints one JSON object a line: the step's name and what came of it; ends at the first failure.
const { spawn } = require('child_process');
const crypto = require('crypto'), fs = require('fs'), path = require('path');
const options = JSON.parse(process.argv[2]);
const say = (step, value) => process.stdout.write(JSON.stringify({ step, value }) + '\n');
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// The test's own certificate, by its key and no other.
const spki = new crypto.X509Certificate(fs.readFileSync(options.certificate)).publicKey.export({ type: 'spki', format: 'der' });
const pin = crypto.createHash('sha256').update(spki).digest('base64');
const browser = spawn('chromium', ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync', '--remote-debugging-port=0',
  `--user-data-dir=${options.profile}`, `--ignore-certificate-errors-spki-list=${pin}`, 'about:blank'],
{ stdio: ['ignore', 'ignore', fs.openSync(options.profile + '.log', 'a')] });
const end = (code) => { browser.once('exit', () => process.exit(code)); browser.kill('SIGKILL'); };
process.on('SIGTERM', () => end(1));

// The DevTools protocol: calls by id, events by name.
let socket, session, count = 0;
const calls = new Map(), responses = [], requests = new Map(), console_ = [];
function call(method, params = {}) {
  const id = ++count;
  socket.send(JSON.stringify({ id, method, params, sessionId: session }));
  return new Promise((resolve, reject) => calls.set(id, { resolve, reject, method }));
}
function heard({ id, method, params, result, error }) {
  if (id && calls.has(id)) {
    const { resolve, reject, method: called } = calls.get(id);
    calls.delete(id);
    return error ? reject(new Error(`${called}: ${error.message}`)) : resolve(result);
  }
  if (method === 'Network.requestWillBeSent') requests.set(params.requestId, params.request.url);
  if (method === 'Network.responseReceived') responses.push([params.response.status, params.response.url]);
  if (method === 'Network.loadingFailed') responses.push([params.errorText, requests.get(params.requestId)]);
  if (method === 'Network.webSocketHandshakeResponseReceived') responses.push([params.response.status, 'websocket']);
  if (method === 'Network.webSocketFrameError') responses.push([params.errorMessage, 'websocket']);
  if (method === 'Runtime.exceptionThrown') console_.push(params.exceptionDetails.exception?.description || params.exceptionDetails.text);
  if (method === 'Log.entryAdded') console_.push(params.entry.text);
}
async function attach() {
  const file = path.join(options.profile, 'DevToolsActivePort');
  while (!fs.existsSync(file) || !fs.readFileSync(file, 'utf8').includes('\n')) await pause(50);
  const [port, target] = fs.readFileSync(file, 'utf8').split('\n');
  socket = new WebSocket(`ws://127.0.0.1:${port}${target}`);
  await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
  socket.onmessage = ({ data }) => heard(JSON.parse(data));
  const { targetInfos } = await call('Target.getTargets');
  const { targetId } = targetInfos.find(({ type }) => type === 'page');
  ({ sessionId: session } = await call('Target.attachToTarget', { targetId, flatten: true }));
  for (const domain of ['Page', 'Runtime', 'Network', 'Log']) await call(`${domain}.enable`);
}

// Finds elements through shadow roots, too.
const FIND = `(selector, root = document) => {
  const found = [...root.querySelectorAll(selector)];
  for (const element of root.querySelectorAll('*')) if (element.shadowRoot) found.push(...find(selector, element.shadowRoot));
  return found;
}`;
const TEXT = `(root = document.body) => [...root.childNodes].map((node) => node.nodeType === 3 ? node.data
  : node.nodeType === 1 && !/^(script|style)$/i.test(node.tagName) ? (node.shadowRoot ? text(node.shadowRoot) : '') + text(node) : '').join(' ')`;
async function evaluate(expression) {
  const { result, exceptionDetails } = await call('Runtime.evaluate', {
    expression: `(() => { const find = ${FIND}; const text = ${TEXT}; return (${expression}); })()`,
    returnByValue: true, awaitPromise: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description || exceptionDetails.text);
  return result.value;
}
// A page that is being left answers nothing; the next one will.
async function until(expression) {
  for (;;) {
    const value = await evaluate(expression).catch(() => null);
    if (value) return value;
    await pause(100);
  }
}
async function key(name, code) {
  for (const type of ['keyDown', 'keyUp']) {
    await call('Input.dispatchKeyEvent', { type, key: name, code: name, windowsVirtualKeyCode: code, text: type === 'keyDown' ? '\r' : undefined });
  }
}

const steps = {
  go: async (url) => {
    await evaluate('window.left = true');
    const { errorText } = await call('Page.navigate', { url });
    if (!errorText) await until("!window.left && document.readyState === 'complete'");
    return errorText;
  },
  until,
  eval: evaluate,
  // Types into the first field that matches, in place of what is there.
  type: async ([selector, text]) => {
    await until(`find(${JSON.stringify(selector)}).length > 0`);
    await evaluate(`(() => { const field = find(${JSON.stringify(selector)})[0]; field.focus(); field.select?.(); })()`);
    await call('Input.insertText', { text });
  },
  enter: () => key('Enter', 13),
  // Clicks the first that matches and, if words are given, says them.
  click: async ([selector, words = '']) => {
    const found = `find(${JSON.stringify(selector)}).find((one) => text(one).toLowerCase().includes(${JSON.stringify(words.toLowerCase())}) && one.getClientRects().length > 0)`;
    await until(found + ' !== undefined');
    await evaluate(`${found}.click()`);
  },
  cookies: async () => (await call('Network.getAllCookies')).cookies.map(({ name, httpOnly, secure, sameSite, path, expires }) =>
    ({ name, httpOnly, secure, sameSite, path, seconds: Math.round(expires - Date.now() / 1000) })),
  // What the page and its parts were answered since the last time.
  answers: async () => responses.splice(0),
  console: async () => console_.splice(0),
  headers: (headers) => call('Network.setExtraHTTPHeaders', { headers }),
  look: async ({ width, height, dark = false, phone = false }) => {
    await call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: phone ? 2 : 1, mobile: phone });
    await call('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }] });
  },
  picture: async (file) => {
    const { data } = await call('Page.captureScreenshot', { format: 'png' });
    fs.writeFileSync(file, Buffer.from(data, 'base64'));
  },
};

(async () => {
  const deadline = setTimeout(async () => {
    const shown = socket && await Promise.race([evaluate('location.href + " " + text()'), pause(2000)]).catch(String);
    say('deadline', { shown, answers: responses.slice(-20), console: console_.slice(-20) });
    end(1);
  }, options.deadlineMs || 90000);
  await attach();
  for (const [name, argument] of options.steps) say(name, await steps[name](argument) ?? null);
  clearTimeout(deadline);
  end(0);
})().catch((error) => { say('error', String(error.stack)); end(1); });
