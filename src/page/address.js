/** The view in the page's address: each one can be sent, reloaded, and left by going back. */

const NAMES = ['session', 'task', 'status', 'search', 'before', 'view', 'job'];

/** What an address says; a name that it lacks is ''. */
export function parse(search) {
  const query = new URLSearchParams(search);
  return Object.fromEntries(NAMES.map((name) => [name, query.get(name) ?? '']));
}

export function format(view) {
  const query = new URLSearchParams();
  for (const name of NAMES) if (view[name]) query.set(name, view[name]);
  const text = query.toString();
  return text ? '?' + text : location.pathname;
}

let show = () => {};
/** Has `draw` called with each view that the address comes to. */
export function onView(draw) {
  show = draw;
  addEventListener('popstate', () => show(view()));
}

export const view = () => parse(location.search);

/** Goes to a view that differs in `changes`; `quiet` leaves no trace in the history. */
export function go(changes, quiet) {
  const next = format({ ...view(), ...changes });
  if (next !== format(view())) history[quiet ? 'replaceState' : 'pushState'](history.state, '', next);
  show(view());
}
