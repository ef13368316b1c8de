// A stub of a model server that speaks OpenAI's chat completions. A user text `run: CMD` makes it
// call the tool `exec`, `tool: NAME {json}` any tool; a tool's result it repeats.
const http = require('http');
const flat = (content) => typeof content === 'string' ? content : Array.isArray(content) ? content.map((part) => part.text || '').join('') : '';
function answer(messages) {
  const last = messages.map((message) => message.role).lastIndexOf('assistant');
  const results = messages.slice(last + 1).filter((message) => message.role === 'tool').map((message) => flat(message.content));
  if (results.length > 0) return { content: 'tool result: ' + results.join('|').slice(0, 400) };
  const text = messages.slice(last + 1).filter((message) => message.role === 'user').map((message) => flat(message.content)).join('\n');
  const run = /run: ([^\n]*)/.exec(text), tool = /tool: (\w+) (\{.*\})/.exec(text);
  const call = tool ? [tool[1], tool[2]] : run ? ['exec', JSON.stringify({ command: run[1] })] : null;
  if (!call) return { content: 'echo: ' + text.slice(-200) };
  return { content: null, tool_calls: [{ id: 'call_' + Date.now(), type: 'function', function: { name: call[0], arguments: call[1] } }] };
}
http.createServer((request, response) => {
  let body = '';
  request.on('data', (data) => { body += data; });
  request.on('end', () => {
    if (request.url.endsWith('/models')) {
      response.setHeader('content-type', 'application/json');
      return response.end(JSON.stringify({ object: 'list', data: [{ id: 'm1', object: 'model' }] }));
    }
    let asked = {};
    try { asked = JSON.parse(body); } catch { /* answered like an empty question */ }
    const message = { role: 'assistant', ...answer(asked.messages || []) };
    const finish_reason = message.tool_calls ? 'tool_calls' : 'stop';
    const usage = { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 };
    const head = { id: 'chatcmpl-' + Date.now(), created: 1, model: 'm1' };
    if (!asked.stream) {
      response.setHeader('content-type', 'application/json');
      return response.end(JSON.stringify({ ...head, object: 'chat.completion', choices: [{ index: 0, message, finish_reason }], usage }));
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const chunk = (value) => response.write('data: ' + JSON.stringify({ ...head, object: 'chat.completion.chunk', ...value }) + '\n\n');
    const delta = { ...message };
    if (delta.tool_calls) delta.tool_calls = delta.tool_calls.map((call, index) => ({ index, ...call }));
    chunk({ choices: [{ index: 0, delta, finish_reason: null }] });
    chunk({ choices: [{ index: 0, delta: {}, finish_reason }] });
    chunk({ choices: [], usage });
    response.end('data: [DONE]\n\n');
  });
}).listen(28700, '127.0.0.1');
