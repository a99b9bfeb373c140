# Draws lines as SVG, one panel below the other, all over the same values of x.
#
#   awk -v title=T -v x_name=X [-v note=N] [-v log_x=1] [-v log_y=PANEL,…] -f plot.awk POINTS
#
# A line of POINTS is `panel<TAB>line<TAB>x<TAB>y`. Panels and lines appear in the order
# of their first point. Colours follow the reader's choice of light or dark, as in the
# pictures of raft_bench.

function log10(value) { return log(value) / log(10) }
function floor(value, whole) { whole = int(value); return whole > value ? whole - 1 : whole }
function ceil(value) { return -floor(-value) }
function escaped(text) {
  gsub(/&/, "\\&amp;", text)
  gsub(/</, "\\&lt;", text)
  gsub(/>/, "\\&gt;", text)
  return text
}

# 1200 is 1.2k.
function short(value) {
  if (value >= 1e6) return sprintf("%.4gM", value / 1e6)
  if (value >= 1e3) return sprintf("%.4gk", value / 1e3)
  return sprintf("%.4g", value)
}

# The next of 1, 2, 5, 10, 20, …
function round_step(step, decade) {
  decade = 10 ^ floor(log10(step))
  if (step <= decade * 1.0001) return decade
  if (step <= 2 * decade) return 2 * decade
  if (step <= 5 * decade) return 5 * decade
  return 10 * decade
}

function x_place(x) {
  if (x_most == x_least) return (LEFT + RIGHT) / 2
  if (log_x) return LEFT + (RIGHT - LEFT) * log(x / x_least) / log(x_most / x_least)
  return LEFT + (RIGHT - LEFT) * (x - x_least) / (x_most - x_least)
}

function y_place(y, share) {
  if (is_log) share = log(y / y_least) / log(y_most / y_least)
  else share = (y - y_least) / (y_most - y_least)
  return BOTTOM - share * (BOTTOM - TOP)
}

function mark_y(y) {
  printf "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text class=\"tick\" text-anchor=\"end\" x=\"%d\" y=\"%.1f\">%s</text>\n", \
    LEFT, y_place(y), RIGHT, LEFT - 10, y_place(y) + 4, short(y)
}

# The scale of a panel: from 0 in round steps, or from power to power of ten.
function scale(panel,    n, step) {
  is_log = index("," log_y ",", "," panel ",") > 0
  if (is_log) {
    y_least = 10 ^ floor(log10(least[panel]))
    y_most = 10 ^ ceil(log10(most[panel]))
    if (y_most <= y_least) y_most = 10 * y_least
    for (n = y_least; n <= y_most * 1.0001; n *= 10) mark_y(n)
    return
  }
  y_least = 0
  step = round_step((most[panel] > 0 ? most[panel] : 1) / 4)
  y_most = step * ceil(most[panel] / step - 1e-9)
  if (y_most <= 0) y_most = step
  for (n = 0; n * step <= y_most * 1.0001; n++) mark_y(n * step)
}

function draw(panel,    l, line, n, path, dots, x, last) {
  printf "<text class=\"name\" x=\"%d\" y=\"22\">%s</text>\n", LEFT, escaped(panel)
  scale(panel)
  printf "<path class=\"axis\" d=\"M%d %dH%d\"/>\n", LEFT, BOTTOM, RIGHT
  last = -100
  for (n = 1; n <= x_count; n++) {
    x = x_place(xs[n])
    printf "<path class=\"axis\" d=\"M%.1f %dv5\"/>", x, BOTTOM
    if (x - last > 42) {
      printf "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">%s</text>", x, BOTTOM + 19, short(xs[n])
      last = x
    }
    print ""
  }
  x = RIGHT
  for (l = lines[panel]; l >= 1; l--) {
    line = names[panel, l]
    x -= length(line) * 7.5 + 46
    printf "<path class=\"line c%d\" d=\"M%.1f 18h22\"/><text x=\"%.1f\" y=\"22\">%s</text>\n", (l - 1) % 6, x + 12, x + 40, escaped(line)
    path = dots = ""
    for (n = 1; n <= x_count; n++) {
      if (!((panel, line, xs[n]) in points)) continue
      path = path sprintf("%s%.1f %.1f", path == "" ? "M" : "L", x_place(xs[n]), y_place(points[panel, line, xs[n]]))
      dots = dots sprintf("M%.1f %.1fh0", x_place(xs[n]), y_place(points[panel, line, xs[n]]))
    }
    printf "<path class=\"line c%d\" d=\"%s\"/><path class=\"line c%d\" style=\"stroke-width:6\" d=\"%s\"/>\n", (l - 1) % 6, path, (l - 1) % 6, dots
  }
}

BEGIN {
  FS = "\t"
  WIDTH = 760; LEFT = 70; RIGHT = 736; TOP = 40; BOTTOM = 190; PANEL = 230; HEAD = 58
}

# A figure that was not measured, or that has no place on a scale of powers.
$4 !~ /^[0-9.]+$/ || $4 + 0 <= 0 { next }
{
  if (!($1 in lines)) panels[++panel_count] = $1
  if (!(($1, $2) in known)) { known[$1, $2] = 1; names[$1, ++lines[$1]] = $2 }
  if (!($3 in seen)) { seen[$3] = 1; xs[++x_count] = $3 + 0 }
  points[$1, $2, $3 + 0] = $4 + 0
  if (!($1 in most) || $4 > most[$1]) most[$1] = $4 + 0
  if (!($1 in least) || $4 < least[$1]) least[$1] = $4 + 0
}

END {
  for (i = 2; i <= x_count; i++)
    for (j = i; j > 1 && xs[j - 1] > xs[j]; j--) { t = xs[j]; xs[j] = xs[j - 1]; xs[j - 1] = t }
  x_least = xs[1]
  x_most = xs[x_count]
  height = HEAD + PANEL * panel_count + 20
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\">\n", WIDTH, height, WIDTH, height
  print "<title>" escaped(title) "</title>\n<style>" \
    "text{font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}" \
    ".title{font-size:15px;font-weight:600}.name{font-weight:600}.tick{font-size:12px;fill:#59636e}" \
    ".page{fill:#fff}.grid{stroke:#d1d9e0}.axis{stroke:#818b98}" \
    ".line{fill:none;stroke-width:2;stroke-linecap:round;stroke-linejoin:round}" \
    ".c0{stroke:#0969da}.c1{stroke:#bc4c00}.c2{stroke:#8250df}.c3{stroke:#cf222e}.c4{stroke:#1a7f37}.c5{stroke:#818b98}" \
    "@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.tick{fill:#9198a1}.page{fill:#0d1117}" \
    ".grid{stroke:#2a313c}.axis{stroke:#656c76}.c0{stroke:#4493f8}.c1{stroke:#f0883e}.c2{stroke:#ab7df8}" \
    ".c3{stroke:#f85149}.c4{stroke:#3fb950}.c5{stroke:#9198a1}}</style>"
  printf "<rect class=\"page\" width=\"%d\" height=\"%d\"/>\n", WIDTH, height
  printf "<text class=\"title\" x=\"20\" y=\"28\">%s</text>\n<text class=\"tick\" x=\"20\" y=\"48\">%s</text>\n", escaped(title), escaped(note)
  for (i = 1; i <= panel_count; i++) {
    printf "<g transform=\"translate(0 %d)\">\n", HEAD + PANEL * (i - 1)
    draw(panels[i])
    print "</g>"
  }
  printf "<text class=\"tick\" text-anchor=\"middle\" x=\"%d\" y=\"%d\">%s</text>\n</svg>\n", (LEFT + RIGHT) / 2, HEAD + PANEL * panel_count + 4, escaped(x_name)
}
