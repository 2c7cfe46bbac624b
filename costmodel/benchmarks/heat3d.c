/* One explicit step of heat in a box; the border becomes 0. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define D 6
#define H 8
#define W 10

void heat3d(DATA_TYPE alpha, DATA_TYPE beta, const DATA_TYPE image[D][H][W],
            DATA_TYPE out[D][H][W]) {
  for (int z = 0; z < D; z++)
    for (int y = 0; y < H; y++)
      for (int x = 0; x < W; x++)
        out[z][y][x] = 0;
  for (int z = 1; z < D - 1; z++)
    for (int y = 1; y < H - 1; y++)
      for (int x = 1; x < W - 1; x++)
        out[z][y][x] = alpha * image[z][y][x] +
                       beta * (image[z][y][x + 1] + image[z][y][x - 1] + image[z][y + 1][x] +
                               image[z][y - 1][x] + image[z + 1][y][x] + image[z - 1][y][x]);
}
