// The gateway's own judgement of tool names and lists. argv: its package, a file of cases. Prints
// a JSON list of booleans. Nothing of it is copied: its own modules are imported.
import fs from 'node:fs';
import path from 'node:path';
const [root, file] = process.argv.slice(2);
const dist = path.join(root, 'dist');
let allowed, profileOf;
if (fs.existsSync(path.join(dist, 'agents/tool-policy.js'))) {
  const policy = await import(path.join(dist, 'agents/tool-policy.js'));
  const matcher = await import(path.join(dist, 'agents/pi-tools.policy.js'));
  allowed = matcher.isToolAllowedByPolicyName;
  profileOf = policy.resolveToolProfilePolicy;
} else {
  // Bundled: names of files and of exports are short, those of functions are not.
  const named = async (prefix, name) => {
    for (const entry of fs.readdirSync(dist).filter((entry) => entry.startsWith(prefix) && entry.endsWith('.mjs'))) {
      const found = Object.values(await import(path.join(dist, entry))).find((value) => value?.name === name);
      if (found) return found;
    }
    throw new Error(`no ${name} in ${prefix}*`);
  };
  allowed = await named('tool-policy-match', 'isToolAllowedByPolicyName');
  profileOf = await named('tool-policy-shared', 'resolveToolProfilePolicy');
}
const verdicts = JSON.parse(fs.readFileSync(file, 'utf8')).map(({ tool, allow, deny, profile }) =>
  // The layers in their order: the profile, then the lists.
  [profile ? profileOf(profile) : undefined, { allow, deny }].every((policy) => allowed(tool, policy)));
// What a gateway's modules print on import must not stand in between.
fs.writeSync(1, JSON.stringify(verdicts));
process.exit(0);
