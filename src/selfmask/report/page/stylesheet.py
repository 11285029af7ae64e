"""The page's style sheet: one column on a phone, words beside pictures on a wide screen, ink on paper in print."""

from __future__ import annotations

from selfmask.report.style import INKS


def stylesheet() -> str:
    """CSS for light and dark screens and for print; the inks are those of the figures."""
    light = "".join(f"--{ink.name}:{ink.light};" for ink in INKS)
    dark = "".join(f"--{ink.name}:{ink.dark};" for ink in INKS)
    return (
        f":root{{{light}--ground:#f3f4f6;--soft:#f0f3f6;color-scheme:light dark}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}--ground:#12151a;--soft:#252b33}}}}"
        + " ".join(_RULES.split())
    )


_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--ground);color:var(--text);
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 16px}
header{padding-top:36px}
a{color:var(--blue)}
h1{font-size:clamp(1.5rem,1.1rem + 2vw,2.2rem);line-height:1.2;margin:.1em 0 .4em;letter-spacing:-.01em;
 overflow-wrap:anywhere}
h2{font-size:1.16rem;line-height:1.3;margin:0 0 .4em}
h3{font-size:1rem;margin:0 0 .3em}
p{margin:.3em 0 .8em}
.eyebrow{color:var(--muted);font-size:.92rem;margin:0}
.lead{font-size:clamp(1.05rem,1rem + .4vw,1.25rem);max-width:46em}
.verdict{font-weight:650}
.note{color:var(--muted);font-size:.92rem}
nav{margin:1em 0 0;font-size:.92rem}
nav ul{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.35em 1.2em}
nav a{text-decoration:none}
nav a:hover,nav a:focus{text-decoration:underline}
main{margin-top:20px}
.glance{display:grid;gap:16px;grid-template-columns:1fr;margin:0 0 24px}
.tiles{display:grid;grid-template-columns:1fr 1fr;gap:12px;margin:0}
.tile,.card,.waffle{background:var(--paper);border:1px solid var(--grid);border-radius:10px}
.tiles:only-child{grid-column:1/-1}
.tile{padding:14px 16px;display:flex;flex-direction:column}
.tile dt{order:2;color:var(--muted);font-size:.86rem;line-height:1.35}
.tile dd{margin:0;font-size:clamp(1.3rem,1.05rem + 1.1vw,1.75rem);font-weight:650;line-height:1.25;
 font-variant-numeric:tabular-nums}
.waffle{padding:14px 16px;margin:0}
.waffle{display:flex;flex-direction:column;justify-content:space-between}
.waffle svg{display:block;width:100%;height:auto}
.waffle figcaption{color:var(--muted);font-size:.86rem;margin-top:8px;line-height:1.4}
.card{padding:18px 16px 14px;margin:0 0 16px}
.words{min-width:0}
.words p{font-size:.95rem}
.picture{min-width:0}
figure{margin:0}
figure svg{display:block;width:100%;height:auto;font-family:inherit}
figure svg *{stroke-linejoin:round;stroke-linecap:butt}
.wide{display:none}
details{margin-top:10px;font-size:.9rem}
summary{cursor:pointer;color:var(--muted);width:fit-content}
summary:hover,summary:focus{color:var(--text)}
.scroll{overflow:auto;max-height:420px;margin:8px 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}
th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--grid);vertical-align:top}
th{font-weight:600}
thead th{color:var(--muted);font-weight:500;font-size:.86rem}
.scroll table{font-size:.82rem;width:auto;min-width:100%}
.scroll td,.scroll th{white-space:nowrap}
td small,th small{display:block;color:var(--muted);font-size:.78rem;font-weight:400;white-space:nowrap}
tr.masked th,tr.masked td{background:var(--soft)}
tr.masked th:first-child{box-shadow:inset 3px 0 var(--blue);padding-left:8px}
.better{color:var(--green);font-weight:600}
.worse{color:var(--orange);font-weight:600}
.gain{display:block;font-size:.86rem}
.result{table-layout:fixed;margin-bottom:14px;font-size:.92rem}
.result col:first-child{width:6.7em}
.result th:first-child{overflow-wrap:normal}
.result .gain small{white-space:normal}
.result th small{white-space:normal}
.result th,.result td{padding-right:4px;overflow-wrap:anywhere}
.result small{font-size:.72rem}
.notes{border-left:4px solid var(--orange);background:var(--paper);border-radius:0 10px 10px 0;
 padding:12px 16px;margin:0 0 16px}
.notes ul{margin:0;padding-left:1.1em}
.strip{display:grid;grid-template-columns:76px minmax(0,1fr);gap:4px 12px;padding:12px 0;
 border-bottom:1px solid var(--grid)}
.strip:last-of-type{border-bottom:0}
.strip .query{grid-row:1/3;font-size:.84rem;line-height:1.25;overflow-wrap:anywhere}
.strip .query img{width:72px;height:72px}
.strip .line{display:flex;align-items:center;gap:4px;flex-wrap:nowrap}
.strip .line>span:first-child{flex:0 0 3.5em;color:var(--muted);font-size:.8rem}
.strip img{object-fit:cover;border-radius:5px;display:block}
.thumb{position:relative;flex:0 1 60px;min-width:0;border:3px solid transparent;border-radius:8px}
.thumb img{width:100%;height:auto;aspect-ratio:1}
.thumb.same{border-color:var(--green)}
.thumb.other{border:3px dashed var(--orange)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);border-radius:8px;padding:12px 14px;
 margin:0 0 12px;font:13px/1.5 ui-monospace,"SF Mono",Consolas,"DejaVu Sans Mono",monospace}
.facts{display:grid;grid-template-columns:minmax(7em,auto) minmax(0,1fr);gap:2px 14px;font-size:.9rem;margin:0}
.facts dt{color:var(--muted)}
.facts dd{margin:0;overflow-wrap:anywhere}
footer{color:var(--muted);font-size:.86rem;padding-top:8px;padding-bottom:48px}
@media (min-width:760px){
 main,header,footer{padding-left:28px;padding-right:28px}
 .glance{grid-template-columns:1fr 1fr}
 .tiles:only-child{grid-template-columns:repeat(3,1fr)}
 .wide{display:block}.narrow{display:none}
 .result{font-size:1rem}
 .result col:first-child{width:auto}
 .result th,.result td{padding-right:10px}
 .result col.measure{width:7.4em}
 .result small{font-size:.78rem}
 .card{padding:22px 24px 18px}
 .strip .line{gap:6px}
 .thumb{flex-basis:72px}
}
@media (min-width:1080px){
 .card{display:grid;grid-template-columns:264px minmax(0,1fr);gap:0 28px}
 .card.plain{display:block}
 .strip{grid-template-columns:76px minmax(0,1fr) minmax(0,1fr)}
 .strip .query{grid-row:auto}
}
@media print{
 body{background:none;font-size:10.5pt}
 main,header,footer{max-width:none;padding:0}
 nav,details,.download{display:none}
 .card,.tile,.waffle{border:0;padding:0;break-inside:avoid;margin-bottom:18pt}
 #neighbours{break-inside:auto}
 .strip{break-inside:avoid;grid-template-columns:76px minmax(0,1fr) minmax(0,1fr)}
 .strip .query{grid-row:auto}
 .result col:first-child{width:auto}
 .result col.measure{width:8em}
 .wide{display:block}.narrow{display:none}
 *{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
"""
