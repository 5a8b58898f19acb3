// Before anything is drawn, so that no page flashes in the other theme. Storage may be refused.
try {
  if (localStorage.theme) document.documentElement.dataset.theme = localStorage.theme;
} catch { /* The system's theme it is. */ }
