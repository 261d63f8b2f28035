"""Messages that docs/troubleshooting.md quotes are in the programs: names where something is not."""
import re, subprocess, sys
src = ''
for f in subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '*.c', '*.h'], capture_output=True, text=True).stdout.split():
    if not f.startswith(('tests/', 'bench/')):
        src += open(f, encoding='utf-8').read() + '\n'
src = re.sub(r'"\s*(?:PRI\w+\s*)?"', '', re.sub(r'"\s*PRI\w+\s*"', '%', src))
src = re.sub(r'"\s*\n\s*"', '', src).replace('\\"', '"')
bad = 0
for line in open('docs/troubleshooting.md'):
    cells = line.split('|')
    if len(cells) < 3:
        continue
    for quoted in re.findall(r'`([^`]*)`', cells[1]):
        for part in quoted.split('...'):
            part = part.strip(' :"()')
            if len(part) > 5 and part not in src:
                print('not in the code: "%s" of `%s`' % (part, quoted)); bad = 1
sys.exit(bad)
